"""What `cdtl site init` makes of its options: the settings of a new site, its invitation, the federation's labels."""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.config import RunConfig, SiteConfig, TaskConfig, Unit
    from cdtl_core.deploy.enrolment import Enrolment
    from cdtl_core.deploy.invitation import Invitation

__all__ = ["Asked", "has_site", "init_site", "words_of"]


@dataclass(frozen=True)
class Asked:
    """What `cdtl site init` is told, by options or in its dialogue; empty fields were not given.

    Attributes:
        name: The site's name.
        modality: Of its images.
        data: Where the images are.
        patient_pattern: Where the patient is in an image's path.
        labels: Of the federation, separated by commas.
        positive: The positive label.
        unit: What has a label.
        map_: ``YOURS=THEIRS`` for each label with another name.
        ignore: Labels whose images are left out.
        invite: The coordinator's invitation.
        phantom: Number of synthetic patients.
        server: ``HOST:PORT`` of the coordinator; the dialogue asks for it.
        ca: Its authority's certificate.
        checked: Whether the images were checked already, without an error.
    """

    name: str = ""
    modality: str = ""
    data: Path | None = None
    patient_pattern: str = ""
    labels: str = ""
    positive: str = ""
    unit: "Unit | None" = None
    map_: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    invite: Path | None = None
    phantom: int = 0
    server: str = ""
    ca: Path | None = None
    checked: bool = False

    @property
    def of_site(self) -> bool:
        """Whether it says anything about the site itself, not only about the federation."""
        own = (self.name, self.modality, self.data, self.patient_pattern, self.labels, self.map_, self.ignore)
        return any(own) or bool(self.phantom)

    def options(self) -> list[str]:
        """Return it as options of `cdtl site init`."""
        single = {
            "--invite": self.invite,
            "--name": self.name,
            "--modality": self.modality,
            "--data": self.data,
            "--patient-pattern": self.patient_pattern,
            "--labels": self.labels,
            "--positive": self.positive,
            "--unit": self.unit,
            "--phantom": self.phantom,
        }
        found = [word for option, value in single.items() if value for word in (option, str(value))]
        found += [word for one in self.map_ for word in ("--map", one)]
        return found + [word for one in self.ignore for word in ("--ignore", one)]


def has_site(folder: Path) -> bool:
    """Whether a folder holds the settings of a site."""
    from cdtl_core.config.folders import SITE_FILE

    return (folder / SITE_FILE).exists()


def init_site(folder: Path, asked: Asked, *, json_: bool) -> None:
    """Make a site, or continue one whose images were refused, and print what comes next.

    Args:
        folder: The site's folder.
        asked: What is known.
        json_: Print JSON.

    Raises:
        CdtlError: An answer, the images or the invitation cannot be used.
    """
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site
    from cdtl_core.deploy.coordinator_address import save_address
    from cdtl_core.deploy.invitation import accept_invitation, kept_invitation
    from cdtl_core.deploy.keys import KEY_FILE

    invitation = read_invitation(asked.invite, folder, asked) if asked.invite else None
    exists = (folder / SITE_FILE).exists()
    if exists and (folder / KEY_FILE).exists() and asked.of_site:
        raise typer.BadParameter(f"{folder / SITE_FILE} exists: edit it, and run this command without options")
    if asked.of_site or not exists:  # an init that stopped at the images may be repeated with other options
        _write_settings(folder, asked, invitation)
    own = load_site(folder / SITE_FILE)
    if invitation:
        accept_invitation(folder, invitation)
    if asked.server and asked.ca:
        save_address(folder, asked.server, asked.ca)
    before = None if invitation else enrolled_unit(folder)  # a new invitation counts more than the last enrolment
    known = kept_invitation(folder)
    task = known_task(words_of(asked.labels) or own.labels or (), asked.positive, asked.unit or before, known)
    enrolment = _enrol(folder, own, task, checked=asked.checked, quiet=json_)
    _tell(folder, enrolment, invitation, json_=json_)


def _write_settings(folder: Path, asked: Asked, invitation: "Invitation | None") -> None:
    from cdtl_core.deploy.enrolling import label_map_of, make_site

    words = invitation.task.labels if invitation else words_of(asked.labels)
    named = replace(asked, name=invitation.site) if invitation else asked
    make_site(folder, new_site(folder, named, words, label_map_of(asked.map_, asked.ignore)))


def _enrol(folder: Path, own: "SiteConfig", task: "RunConfig", *, checked: bool, quiet: bool) -> "Enrolment":
    """Check the images, unless that was done, and enrol the site.

    Args:
        folder: The site's folder.
        own: Its settings.
        task: What is known of the federation.
        checked: Whether the images were checked.
        quiet: Print no findings.
    """
    from cdtl_core.cli.findings import check_data, listed_labels
    from cdtl_core.cli.progress import showing_progress
    from cdtl_core.deploy.enrolling import check_labels, enrol_site

    listed = [] if own.data.where else listed_labels(own)  # conditions may leave out whole labels
    check_labels(listed, own.data.label_map, task.task.labels)  # before the images, which can take minutes
    if not checked:
        check_data(own, task.task.unit, quiet=quiet)
    with showing_progress():
        return enrol_site(folder, task)


def _tell(folder: Path, enrolment: "Enrolment", invitation: "Invitation | None", *, json_: bool) -> None:
    """Print the fingerprints and what comes next.

    Args:
        folder: The site's folder.
        enrolment: What it sends to the coordinator.
        invitation: What it got.
        json_: Print JSON.
    """
    from cdtl_core.config.folders import ENROLMENT_FILE
    from cdtl_core.deploy.coordinator_address import has_address

    site, fingerprint = enrolment.contract.site, enrolment.fingerprint
    if json_:
        told = {"site": site, "enrolment": str(folder / ENROLMENT_FILE), "fingerprint": fingerprint}
        told |= {"coordinator_fingerprint": invitation.fingerprint} if invitation else {}
        typer.echo(json.dumps(told, indent=1))
        return
    if invitation:
        typer.echo(f"Invited by {invitation.host}:{invitation.port}. Compare by telephone:\n  {invitation.fingerprint}")
    typer.echo(f"Site {site} in {folder}. The key in it never leaves; keep a backup of the folder.")
    typer.echo(f"Send {folder / ENROLMENT_FILE} to the coordinator, and read out by telephone:\n  {fingerprint}")
    address = "" if has_address(folder) else " --server HOST:PORT --ca ca.crt"
    typer.echo(f"Next, when the coordinator has admitted it: cdtl site check {folder}{address}")


def new_site(folder: Path, asked: Asked, labels: tuple[str, ...], label_map: dict[str, str]) -> "SiteConfig":
    """Return the settings of a new site from the options; an earlier call that stopped at the images is continued.

    Args:
        folder: The site's folder.
        asked: What was asked for.
        labels: Of the federation; may be empty.
        label_map: Local label to task label.

    Raises:
        typer.BadParameter: An option is missing; the error holds the whole command.
    """
    from cdtl_core.config import TaskConfig
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site, site_of

    if asked.data and asked.phantom:
        raise typer.BadParameter("give --data or --phantom, not both")
    begun = load_site(folder / SITE_FILE) if (folder / SITE_FILE).exists() else None
    if begun:  # an earlier call stopped at the images
        asked = replace(asked, name=asked.name or begun.site, modality=asked.modality or begun.modality)
        labels, label_map = labels or begun.labels or (), label_map or dict(begun.data.label_map)
    given = bool(asked.data or asked.phantom or (begun and not asked.patient_pattern))
    if not (asked.name and asked.modality and given):
        raise typer.BadParameter(_whole_command(folder, asked, given=given))
    placed = _place(folder, asked, begun) | ({"label_map": label_map} if label_map else {})
    tree = {"site": asked.name, "modality": asked.modality, "data": placed}
    return site_of({**tree, "labels": list(labels or TaskConfig().labels)}, "the options")


def _place(folder: Path, asked: Asked, begun: "SiteConfig | None") -> dict[str, object]:
    """Return the `data` settings: of the images, of the earlier call, or of synthetic patients."""
    from cdtl_core.deploy.enrolling import place_data

    if asked.data:
        return {**place_data(folder, asked.data, patient_pattern=asked.patient_pattern, tell=_note)}
    if begun and not asked.phantom:
        return begun.data.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    return {"phantom": {"patients": asked.phantom}}


def _whole_command(folder: Path, asked: Asked, *, given: bool) -> str:
    """Return what a new site lacks, and the whole command with what is known.

    Args:
        folder: The site's folder.
        asked: Name, modality and pattern, as far as they are known.
        given: Whether it is known where the images are.
    """
    missing = [f"--{name}" for name, value in (("name", asked.name), ("modality", asked.modality)) if not value]
    words = ["cdtl", "site", "init", str(folder), "--name", asked.name or "NAME"]
    words += ["--modality", asked.modality or "MODALITY", "--data", "IMAGES"]
    words += ["--patient-pattern", asked.patient_pattern] if asked.patient_pattern else []
    needed = ", ".join([*missing, *([] if given else ["--data"])])
    return f"a new site needs {needed}. Give the whole command: {shlex.join(words)}"


def _note(text: str) -> None:
    typer.echo(f"Note: {visible(text, 2000)}", err=True)


def read_invitation(path: Path, folder: Path, asked: Asked) -> "Invitation":
    """Read an invitation; refuse options and a folder that contradict it.

    Args:
        path: The invitation.
        folder: The site's folder.
        asked: The options.
    """
    from cdtl_core.config.folders import SITE_FILE
    from cdtl_core.config.settings import load_site
    from cdtl_core.deploy.invitation import load_invitation
    from cdtl_core.errors import ConfigError

    if asked.labels or asked.positive:
        raise typer.BadParameter("--invite names the labels: leave out --labels and --positive")
    found = load_invitation(path)
    known = asked.name or (load_site(folder / SITE_FILE).site if (folder / SITE_FILE).exists() else found.site)
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
