"""What `cdtl site init` makes of its options: the settings of a new site, its invitation, the federation's labels."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig, SiteConfig, TaskConfig, Unit
    from cdtl_core.deploy.invitation import Invitation

__all__ = ["enrolled_unit", "known_task", "new_site", "read_invitation", "words_of"]


def new_site(
    folder: Path,
    asked: dict[str, str],
    data: Path | None,
    pattern: str,
    labels: tuple[str, ...],
    label_map: dict[str, str],
    phantom: int,
) -> "SiteConfig":
    """Return the settings of a new site from the options; an earlier call that stopped at the images is continued.

    Args:
        folder: The site's folder.
        asked: ``site`` and ``modality``; may be empty.
        data: Where the images are; None: as in the earlier call.
        pattern: Where the patient is in an image's path; may be empty.
        labels: Of the federation; may be empty.
        label_map: Local label to task label.
        phantom: Number of synthetic patients; 0: none.

    Raises:
        typer.BadParameter: An option is missing; the error holds the whole command.
    """
    from cdtl_core.config import TaskConfig
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site, site_of
    from cdtl_core.deploy.enrolling import place_data

    if data and phantom:
        raise typer.BadParameter("give --data or --phantom, not both")
    begun = load_site(folder / SITE_FILE) if (folder / SITE_FILE).exists() else None
    if begun:  # an earlier call stopped at the images
        asked = {"site": asked["site"] or begun.site, "modality": asked["modality"] or begun.modality}
        labels, label_map = labels or begun.labels or (), label_map or dict(begun.data.label_map)
    given = bool(data or phantom or (begun and not pattern))
    if not (asked["site"] and asked["modality"] and given):
        raise typer.BadParameter(_whole_command(folder, asked, pattern, given=given))
    placed: dict[str, object]
    if data:
        placed = {**place_data(folder, data, patient_pattern=pattern, tell=_note)}
    elif begun and not phantom:
        placed = begun.data.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    else:
        placed = {"phantom": {"patients": phantom}}
    tree: dict[str, object] = {**asked, "data": placed | ({"label_map": label_map} if label_map else {})}
    tree["labels"] = list(labels or TaskConfig().labels)
    return site_of(tree, "the options")


def _whole_command(folder: Path, asked: dict[str, str], pattern: str, *, given: bool) -> str:
    """Return what a new site lacks, and the whole command with what is known.

    Args:
        folder: The site's folder.
        asked: Name and modality, as far as they are known.
        pattern: Of the patients; may be empty.
        given: Whether it is known where the images are.
    """
    missing = [f"--{name}" for name, key in (("name", "site"), ("modality", "modality")) if not asked[key]]
    words = ["cdtl", "site", "init", str(folder), "--name", asked["site"] or "NAME"]
    words += ["--modality", asked["modality"] or "MODALITY", "--data", "IMAGES"]
    words += ["--patient-pattern", pattern] if pattern else []
    needed = ", ".join([*missing, *([] if given else ["--data"])])
    return f"a new site needs {needed}. Give the whole command: {shlex.join(words)}"


def _note(text: str) -> None:
    typer.echo(f"Note: {visible(text, 2000)}", err=True)


def read_invitation(path: Path, folder: Path, name: str, labels: str) -> "Invitation":
    """Read an invitation; refuse options and a folder that contradict it.

    Args:
        path: The invitation.
        folder: The site's folder.
        name: The site's name, if it was given.
        labels: Labels, if any were given.
    """
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site
    from cdtl_core.deploy.invitation import load_invitation
    from cdtl_core.errors import ConfigError

    if labels:
        raise typer.BadParameter("--invite names the labels: leave out --labels and --positive")
    found = load_invitation(path)
    known = name or (load_site(folder / SITE_FILE).site if (folder / SITE_FILE).exists() else found.site)
    if known != found.site:
        raise ConfigError(f"the invitation is for the site {found.site}, not {known}: ask for one for {known}.")
    return found


def words_of(labels: str) -> tuple[str, ...]:
    """Return the labels of an option, which are separated by commas."""
    return tuple(label for label in labels.split(",") if label)


def enrolled_unit(folder: Path) -> "Unit | None":
    """Return what has a label by the site's last enrolment; None before it."""
    from cdtl_core.federation.contract import enrolled_contract

    enrolled = enrolled_contract(folder)
    return enrolled.unit if enrolled else None


def known_task(
    labels: tuple[str, ...], positive: str, unit: "Unit | None", invited: "TaskConfig | None"
) -> "RunConfig":
    """Return what is known of the federation: its task, from the options, the invitation or the defaults.

    Args:
        labels: May be empty.
        positive: The positive label; may be empty.
        unit: What has a label; None: not said.
        invited: The task of the invitation.
    """
    from cdtl_core.config import RunConfig, TaskConfig
    from cdtl_core.errors import ConfigError

    known = invited or TaskConfig()
    names = labels or known.labels
    chosen = positive or known.positive
    if chosen not in names:
        raise ConfigError(f"the positive label '{chosen}' is not among {', '.join(names)}: give --positive.")
    return RunConfig(task=TaskConfig(labels=names, positive=chosen, unit=unit or known.unit))
