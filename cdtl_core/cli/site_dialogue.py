"""The dialogue of `cdtl site init`: each answer is checked at once, and nothing is written before the end."""

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import typer
from click import UsageError

from cdtl_core.cli.dialogue import ask, ask_coordinator, ask_invitation, one_of, say
from cdtl_core.cli.findings import tell_check
from cdtl_core.cli.new_site import Asked, words_of
from cdtl_core.cli.progress import showing_progress
from cdtl_core.config import TaskConfig, Unit
from cdtl_core.config.forms import NAME
from cdtl_core.config.modalities import MODALITIES, modalities, modality_of
from cdtl_core.data.decode.formats import HEAD_BYTES, is_dicom
from cdtl_core.data.listing.folders import rows_of
from cdtl_core.data.listing.patients import name_form
from cdtl_core.data.source import Row
from cdtl_core.deploy.enrolling import label_map_of
from cdtl_core.deploy.invitation import Invitation
from cdtl_core.errors import DataError, FederationError
from cdtl_core.quality.check_source import check_cohort
from cdtl_core.system.foreign import visible

__all__ = ["ask_site"]

_LEFT_OUT = "-"


def ask_site(folder: Path) -> Asked:
    """Ask for all that a new site needs, and check its images.

    Args:
        folder: The site's folder; it is only named here.

    Raises:
        FederationError: The summary was not confirmed.
        DataError: The images have errors, and no settings are to be written for them.
    """
    say(f"A new site in {folder}. Each answer is checked at once. Nothing is written before you confirm; Ctrl-C stops.")
    try:
        path, invitation = ask_invitation()
        asked = Asked(invite=path) if invitation else ask_coordinator(Asked(name=_ask_name(folder)))
        asked, rows = _ask_images(asked)
        asked = replace(asked, modality=_ask_modality(rows))
        asked, task = _ask_labels(asked, rows, invitation)
        asked = replace(asked, checked=_check(asked, task))
        _confirm(folder, asked, invitation)
    except typer.Abort:
        say("\nStopped: nothing was written.")
        raise
    return asked


def _ask_name(folder: Path) -> str:
    def check(text: str) -> str:
        if not re.match(NAME, text):
            raise UsageError("use a-z, 0-9, - and _, at most 48 characters, beginning with a letter or a digit.")
        return text

    name = folder.absolute().name.lower().removesuffix("-site")
    return ask("Name of the site", check, name if re.match(NAME, name) else None)


def _ask_images(asked: Asked) -> tuple[Asked, Sequence[Row]]:
    def check(text: str) -> tuple[Path, list[Row]]:
        path = Path(text).expanduser()
        return path, rows_of(path)

    likely = (Path("manifest.csv"), Path("images/manifest.csv"), Path("images"), Path("data"))
    found = next((path for path in likely if path.exists()), None)
    while True:
        what = "The images: a manifest.csv, or a folder that holds one or a folder for each label"
        path, rows = ask(what, check, str(found) if found else None)
        labels = sorted({row.label for row in rows})
        counts = ", ".join(f"{visible(one) or '(none)'} {sum(row.label == one for row in rows)}" for one in labels[:12])
        say(f"  {len(rows)} images; by label: {counts}")
        asked = replace(asked, data=path)
        if all(row.patient for row in rows):
            break
        if path.is_dir() and not (path / "manifest.csv").exists():
            pattern, rows = _ask_patients(path, rows)
            asked = replace(asked, patient_pattern=pattern)
            break
        say("  Error: the manifest does not name each image's patient; cdtl data make-manifest writes one that does.")
    say(f"  {len({row.patient for row in rows})} patients.")
    return asked, rows


def _ask_patients(path: Path, rows: Sequence[Row]) -> tuple[str, list[Row]]:
    form = name_form(rows)

    def check(text: str) -> tuple[str, list[Row]]:
        found = rows_of(path, text)
        if lack := [row.file.name for row in found if not row.patient]:
            raise UsageError(f"{len(lack)} images have no patient by '{text}', for example {visible(lack[0])}.")
        return text, found

    if form:
        say(f"  In {visible(form.name)} the patient may be '{visible(form.patient)}': {form.patients} patients in all.")
    else:
        example = visible(rows[0].file.relative_to(path) if rows[0].file.is_relative_to(path) else rows[0].file)
        say(f"  No image names its patient. Example: {example}")
    return ask("Where the patient is in a path, such as {patient}_*", check, form.pattern if form else None)


def _ask_modality(rows: Sequence[Row]) -> str:
    def check(text: str) -> str:
        return modality_of(text).name

    return ask(f"Modality: {', '.join(modalities())}", check, _likely_modality(rows))


def _likely_modality(rows: Sequence[Row]) -> str | None:
    """Return the modality of the first image's DICOM header, or one that its path names; None if it is unknown."""
    file, code = rows[0].file, ""
    with suppress(OSError), file.open("rb") as opened:
        if is_dicom(opened.read(HEAD_BYTES)):
            from cdtl_core.data.decode.dicom import read_tags  # pydicom takes a while to load

            tags = read_tags(file)
            code = tags.modality if tags else ""
    by_code = [one.name for one in MODALITIES.values() if code in one.dicom]
    return next(iter([*by_code, *(name for name in MODALITIES if name in str(file).lower())]), None)


def _ask_labels(asked: Asked, rows: Sequence[Row], invitation: Invitation | None) -> tuple[Asked, TaskConfig]:
    """Ask for the federation's labels, unless it invited the site, and for the word of each other label."""
    own = sorted({row.label for row in rows} - {""})
    if invitation:
        task = invitation.task
    else:
        asked, task = _ask_task(asked, own)
    pairs, ignored = [], []
    for label in own:
        if label not in task.labels:
            word = _ask_word(label, task.labels)
            pairs += [] if word == _LEFT_OUT else [f"{label}={word}"]
            ignored += [label] if word == _LEFT_OUT else []
    return replace(asked, map_=tuple(pairs), ignore=tuple(ignored)), task


def _ask_word(label: str, labels: Sequence[str]) -> str:
    by_case = {one.lower(): one for one in labels}
    near = get_close_matches(label.lower(), by_case, n=1, cutoff=0.6)
    what = f"Your label '{visible(label)}' is the federation's ({', '.join(map(visible, labels))}; - to leave it out)"
    return ask(what, one_of([*labels, _LEFT_OUT]), by_case[near[0]] if near else None)


def _ask_task(asked: Asked, own: Sequence[str]) -> tuple[Asked, TaskConfig]:
    shipped = TaskConfig()

    def check(text: str) -> tuple[str, ...]:
        if len(set(words_of(text))) < 2:
            raise UsageError("a federation predicts at least two labels: separate them by commas.")
        return words_of(text)

    labels = ask(
        "The labels that the federation predicts, separated by commas", check,
        ",".join(own if 1 < len(own) <= len(shipped.labels) else shipped.labels),
    )  # fmt: skip
    likely = shipped.positive if shipped.positive in labels else labels[-1]
    positive = ask("The positive label, of those with the disease", one_of(labels), likely)
    unit = ask(f"What has a label: {', '.join(get_args(Unit))}", one_of(get_args(Unit)), shipped.unit)
    task = TaskConfig(labels=labels, positive=positive, unit=unit)
    return replace(asked, labels=",".join(labels), positive=positive, unit=task.unit), task


def _check(asked: Asked, task: TaskConfig) -> bool:
    """Check the cohort; returns whether it has no errors. One with errors goes on only if a person wants its settings.

    Raises:
        DataError: It has errors, and nothing is to be written.
    """
    assert asked.data is not None  # noqa: S101 - it was asked for
    label_map = label_map_of(asked.map_, asked.ignore)
    options: dict[str, Any] = {"label_map": label_map, "unit": task.unit, "patient_pattern": asked.patient_pattern}
    with showing_progress():
        found = check_cohort(asked.data, modality=asked.modality, **options)
    try:
        tell_check(found, asked.data)
    except DataError:
        if not typer.confirm("Write the settings all the same, to switch a rule off in site.toml with a reason?"):
            say("Nothing was written.")
            raise
        return False
    return True


def _confirm(folder: Path, asked: Asked, invitation: Invitation | None) -> None:
    site = invitation.site if invitation else asked.name
    say(f"\nSite {site}, {asked.modality}, images {asked.data}")
    words = [*asked.map_, *(f"{label} left out" for label in asked.ignore)]
    say(f"  labels: {', '.join(map(visible, words)) or 'as the federation names them'}")
    where = f"{visible(invitation.host)}:{invitation.port}" if invitation else visible(asked.server)
    say(f"  coordinator: {where or 'not known yet'}")
    say(f"The same without questions:\n  {shlex.join(['cdtl', 'site', 'init', str(folder), *asked.options()])}")
    if not typer.confirm("Make the key, and write the site?", default=True):
        raise FederationError("not confirmed, so nothing was written: run the command again.")
