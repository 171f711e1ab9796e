"""Checks of a site before it takes part."""

import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cdtl_core.config import RunConfig, SiteConfig, TaskConfig
from cdtl_core.config.folders import ENROLMENT_FILE, SITE_FILE
from cdtl_core.config.modalities import modality_of
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.certificates import expiry
from cdtl_core.deploy.coordinator_address import has_address, load_address
from cdtl_core.deploy.enrolment import load_enrolment
from cdtl_core.deploy.expiry import site_notices
from cdtl_core.deploy.filter import CERTIFICATE_FILE
from cdtl_core.deploy.keys import KEY_FILE, fingerprint, load_key
from cdtl_core.deploy.link import LINK
from cdtl_core.deploy.reaching import check_coordinator
from cdtl_core.deploy.separation import find_separation, noted_separation
from cdtl_core.errors import CdtlError
from cdtl_core.quality.check_source import check_cohort
from cdtl_core.results.spent import not_covered, spent_of_site
from cdtl_core.site.cohort import open_cohort
from cdtl_core.site.spending import check_one_ledger
from cdtl_core.training.device import choose_device

__all__ = ["Finding", "check_site"]

_SPACE_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """The result of one check: subject, state, and what was seen or what to do."""

    name: str
    state: Literal["ok", "warning", "wrong"]
    text: str


def check_site(home: Path, *, rehearse: bool, tell: Callable[[str], object]) -> dict[str, Any]:
    """Check settings, key, coordinator, disk space and images, and rehearse two rounds on this machine.

    Args:
        home: The site's folder.
        rehearse: Whether to rehearse; the rehearsal is skipped if a check fails.
        tell: Called with the current step. The checks that take seconds come first.

    Returns:
        ``checks``, each a `Finding`, and ``rehearsal``: its estimates, or None.

    Raises:
        ConfigError: The folder holds no site or its settings are wrong.
    """
    own = load_site(home / SITE_FILE)
    found = [Finding("settings", "ok", f"site {own.site}, {own.modality}, {len(own.lock)} settings locked")]
    for name, look in _LOOKS.items():
        tell(f"{name} ...")
        found += _looked(name, look, home, own)
    if _is_stopped(found) or not has_address(home):
        found.append(Finding("images", "warning", "not checked yet, because it takes long: first do the above"))
        return {"checks": [asdict(one) for one in found], "rehearsal": None}
    tell("images ...")
    found += _looked("images", _images, home, own)
    estimates = None
    if rehearse and not _is_stopped(found):
        from cdtl_core.deploy.rehearsal import rehearse_rounds

        tell(
            "rehearsal: two rounds with the default network and image size, against a coordinator on this machine. It "
            "takes some minutes; --no-rehearse leaves it out ..."
        )
        try:
            estimates = rehearse_rounds(home, own, task_of(home), tell=tell)
            found.append(Finding("rehearsal", "ok", "two rounds trained, sent and received"))
        except CdtlError as error:
            found.append(Finding("rehearsal", "wrong", str(error)))
    return {"checks": [asdict(one) for one in found], "rehearsal": estimates}


def _is_stopped(found: Sequence[Finding]) -> bool:
    """Whether something must be corrected before the next check; a coordinator that is out of reach does not matter."""
    return any(one.state == "wrong" for one in found if one.name != "coordinator")


def task_of(home: Path) -> TaskConfig:
    """Return the task that the site enrolled with: its labels, and what has one.

    Raises:
        CdtlError: The enrolment is missing or damaged.
    """
    contract = load_enrolment(home / ENROLMENT_FILE).contract
    return TaskConfig(labels=contract.labels, positive=contract.positive, unit=contract.unit)


def _looked(
    name: str, look: Callable[[Path, SiteConfig], Iterator[Finding]], home: Path, own: SiteConfig
) -> list[Finding]:
    try:
        return list(look(home, own))
    except CdtlError as error:
        return [Finding(name, "wrong", str(error))]


def _key(home: Path, _own: SiteConfig) -> Iterator[Finding]:
    key, enrolment = load_key(home), load_enrolment(home / ENROLMENT_FILE)
    if fingerprint(key.public_key()) != enrolment.fingerprint:
        yield Finding("key", "wrong", f"{ENROLMENT_FILE} was made with another key: run cdtl site init again.")
        return
    mode = stat.S_IMODE((home / KEY_FILE).stat().st_mode)
    if mode & 0o077:
        yield Finding("key", "warning", f"others can read {KEY_FILE}: chmod 600 {home / KEY_FILE}.")
    until = expiry(home / CERTIFICATE_FILE)
    for text in site_notices(home):
        yield Finding("key", "wrong" if "site's certificate expired" in text else "warning", text)
    yield Finding("key", "ok", f"fingerprint {enrolment.fingerprint[:19]} ..., certificate until {until:%Y-%m-%d}")


def _images(home: Path, own: SiteConfig) -> Iterator[Finding]:
    if own.data.phantom is not None:
        yield Finding("images", "warning", "SYNTHETIC phantoms, not patients: for trying things out only")
    else:
        source = own.data.root.expanduser() / (own.data.manifest or "")
        modality, names = modality_of(own.modality), own.data.label_map
        check = check_cohort(
            source,
            modality=modality,
            label_map=names,
            switched_off=own.checks.off,
            tile_um=own.data.tile_um,
            unit=task_of(home).unit,
        )
        for finding in check.findings:
            if not finding.waived:
                state: Literal["wrong", "warning"] = "wrong" if finding.severity == "error" else "warning"
                yield Finding("images", state, f"{finding.rule}: {finding.message} {finding.advice}")
    cohort = open_cohort(home, RunConfig(task=task_of(home)))
    parts = ", ".join(f"{fold.num_patients} {name}" for name, fold in cohort.folds.items())
    yield Finding("images", "ok", f"{cohort.num_patients} patients: {parts}")


def _machine(home: Path, own: SiteConfig) -> Iterator[Finding]:
    import psutil

    free, memory = shutil.disk_usage(home).free / 1e9, psutil.virtual_memory().available / 1e9
    text = f"{free:.0f} GB of disk and {memory:.0f} GB of memory free, device {choose_device(own.device)}"
    if free < _SPACE_GB:
        yield Finding("machine", "wrong", f"only {free:.1f} GB are free in {home}: {_SPACE_GB:.0f} GB are needed.")
    else:
        yield Finding("machine", "ok", text)


def _coordinator(home: Path, _own: SiteConfig) -> Iterator[Finding]:
    for state, text in check_coordinator(home, load_address(home)):
        yield Finding("coordinator", state, text)


def _privacy(home: Path, own: SiteConfig) -> Iterator[Finding]:
    check_one_ledger(own)
    for spent in spent_of_site(home):
        yield Finding("privacy", "ok", f"epsilon {spent.epsilon_rdp:.2f} spent so far: cdtl privacy ledger {home}")
        for sentence in not_covered(spent):
            yield Finding("privacy", "warning", sentence)
    if own.privacy.exempt:
        yield Finding("privacy", "warning", "exempt: runs train here without differential privacy (privacy.exempt)")


def _separated(home: Path, own: SiteConfig) -> Iterator[Finding]:
    """Describe the sandbox of a node started here, or if filter and node are separate, the node's own record."""
    found = noted_separation(home) if (home / LINK).exists() else find_separation(home)
    if found is None:
        yield Finding(
            "separation", "warning", "the node is started separately and has not run yet: start it and check again"
        )
    elif found.kind == "none":
        yield Finding("separation", "wrong" if own.require_separation else "warning", found.text)
    else:
        yield Finding("separation", "ok", found.text)


_LOOKS = {
    "key": _key,
    "coordinator": _coordinator,
    "privacy": _privacy,
    "machine": _machine,
    "separation": _separated,
}
"""The checks that take seconds; images and rehearsal, which can take minutes, follow."""
