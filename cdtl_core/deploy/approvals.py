"""A site's list of approved runs, and the decision over one: this code, these settings, and no lock against it.

The list is a folder, ``HOME/approvals``, and is read anew for each decision: removing a file revokes at once.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core.config import SiteConfig
from cdtl_core.deploy.records import record_approval
from cdtl_core.deploy.request import ApprovalRequest, request_id
from cdtl_core.durable import replace_bytes, sync_folder, unwritable
from cdtl_core.errors import CheckpointError, ConfigError, PrivacyError
from cdtl_core.federation.egress import LIST_VERSION, EgressManifest, egress_manifest
from cdtl_core.foreign import get_logger
from cdtl_core.schema import Flat, Line, Sha256
from cdtl_core.settings import unflatten

__all__ = ["Approval", "Verdict", "approvals", "approve", "decide", "lock_fault", "withdraw"]

_log = get_logger("cdtl.gate")


class Approval(BaseModel):
    """One approved run; the file's name is the hash of its code and settings.

    Attributes:
        bundle_sha256: Of the code bundle's bytes.
        settings: All settings of the run; a run with any other is refused.
        egress: What its replies may hold.
        approved_at: Seconds since 1970.
        note: Why or by whom, for the site's own records.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle_sha256: Sha256
    settings: Flat
    egress: EgressManifest
    approved_at: float
    note: Line = ""

    @property
    def id(self) -> str:
        """Sixteen hex digits."""
        return request_id(self.bundle_sha256, self.settings)


@dataclass(frozen=True)
class Verdict:
    """The approval that a run has, or None and a sentence that says why not."""

    approved: Approval | None
    reason: str


def approve(
    home: Path, request: ApprovalRequest, site: SiteConfig, *, note: str = "", clock: Callable[[], float] = time.time
) -> Approval:
    """Put a run on the site's list; what its replies may hold is worked out here, from its settings.

    Raises:
        ConfigError: The settings are not those of a run.
        PrivacyError: They contradict a lock of the site.
        CheckpointError: The disk is full or read-only; the run is not approved.
    """
    config = unflatten(request.settings)
    if fault := lock_fault(request.settings, site.lock):
        raise PrivacyError(fault)
    labels = site.labels or config.task.labels
    private = config.dp.enabled and not site.privacy.exempt
    egress = egress_manifest(config, site=site.site, modality=site.modality, labels=labels, private=private)
    settings, bundle = request.settings, request.bundle_sha256
    approval = Approval(bundle_sha256=bundle, settings=settings, egress=egress, approved_at=clock(), note=note)
    content = approval.model_dump_json(indent=1).encode()
    record_approval(home, "approved", approval.id, sha256=hashlib.sha256(content).hexdigest(), note=note, clock=clock)
    replace_bytes(_folder(home) / f"{approval.id}.json", content)
    for suffix in (".json", ".fab"):
        (home / "pending" / f"{approval.id}{suffix}").unlink(missing_ok=True)
    return approval


def withdraw(home: Path, id: str, *, clock: Callable[[], float] = time.time) -> None:
    """Take a run off the list, at once and also while it is under way.

    Raises:
        ConfigError: It is not on the list.
        CheckpointError: It cannot be removed; or it is off the list, and the log of approvals cannot be written.
    """
    path = _folder(home) / f"{id}.json"
    try:
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        raise ConfigError(f"no approval {id} at this site: cdtl site status lists them.") from None
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        record_approval(home, "withdrawn", id, clock=clock)
    except CheckpointError as error:  # the withdrawal must not wait for a disk that is full
        raise CheckpointError(f"{id} is withdrawn, but its line in the log of approvals is missing: {error}") from None


def approvals(home: Path) -> dict[str, Approval]:
    """Id to approval as the folder is now; a file that cannot be read, or was edited, approves nothing."""
    found = {}
    for path in sorted(_folder(home).glob("*.json")):
        try:
            approval = Approval.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            _log.warning("%s approves nothing: it cannot be read (%s).", path, type(error).__name__)
            continue
        if approval.egress.schema_version != LIST_VERSION:
            _log.warning("%s approves nothing: an earlier cdtl wrote it, approve the run again.", path)
        elif approval.id == path.stem:
            found[approval.id] = approval
        else:
            _log.warning("%s approves nothing: its name is not the hash of its content.", path)
    return found


def decide(home: Path, bundle_sha256: str, settings: Flat, locks: Flat) -> Verdict:
    """Whether a run may be executed here, and if not, why: by its bundle's real hash and all its settings."""
    if fault := lock_fault(settings, locks):
        return Verdict(None, fault)
    same_code = [one for one in approvals(home).values() if one.bundle_sha256 == bundle_sha256]
    if not same_code:
        return Verdict(None, f"nobody at this site has approved the bundle {bundle_sha256[:12]}: approve or ignore it.")
    for approval in same_code:
        if not _differing(settings, approval.settings):
            return Verdict(approval, "")
    key = _differing(settings, same_code[-1].settings)[0]
    got, wanted = settings.get(key, "absent"), same_code[-1].settings.get(key, "absent")
    return Verdict(
        None, f"the bundle is approved with {key} = {wanted!r}, the run says {got!r}: approve that too, or not."
    )


def lock_fault(settings: Flat, locks: Flat) -> str:
    """The first setting that the site has fixed and the run does not keep, as a sentence; empty if there is none."""
    for key, wanted in locks.items():
        if not _same(settings.get(key), wanted):
            got = settings.get(key, "nothing")
            return (
                f"this site fixes {key} = {wanted!r} and the run says {got!r}: ask the coordinator to change the run."
            )
    return ""


def _differing(settings: Flat, approved: Flat) -> list[str]:
    keys = sorted(settings.keys() | approved.keys())
    return [key for key in keys if key not in settings or not _same(settings[key], approved.get(key))]


def _same(one: object, other: object) -> bool:
    """Equal, where 1 and 1.0 are one number and True is none."""
    return one == other and (isinstance(one, bool), isinstance(one, str)) == (
        isinstance(other, bool),
        isinstance(other, str),
    )


def _folder(home: Path) -> Path:
    return home / "approvals"
