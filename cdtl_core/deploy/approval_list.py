"""A site's list of approved runs.

The list is a folder, ``HOME/approvals``, and is read at each decision: removing a file revokes the approval at once.
"""

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core.config.schema import Flat, Line, Sha256, inside
from cdtl_core.deploy.persons import Signature
from cdtl_core.deploy.records import record_approval
from cdtl_core.deploy.request import request_id
from cdtl_core.errors import CheckpointError, ConfigError
from cdtl_core.federation.egress import LIST_VERSION, EgressManifest
from cdtl_core.system.durable import one_at_a_time, sync_folder, unwritable
from cdtl_core.system.foreign import get_logger

__all__ = ["INITIAL_WEIGHTS", "Approval", "approvals", "approvals_folder", "take_off", "withdraw"]

INITIAL_WEIGHTS = "limits.initial_weights_hash"
"""The setting without which a run has no limits."""
_log = get_logger("cdtl.filter")


class Approval(BaseModel):
    """One approved run; the file's name is the hash of its code and settings.

    Attributes:
        bundle_sha256: Hash of the code bundle's bytes.
        settings: All settings of the run; a run with other settings is refused.
        egress: The contents of its replies.
        approved_at: Seconds since 1970.
        note: A note for the site's own records.
        signatures: Signatures of the approvers; required if site.toml names persons.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle_sha256: Sha256
    settings: Flat
    egress: EgressManifest
    approved_at: float
    note: Line = ""
    signatures: tuple[Signature, ...] = ()

    @property
    def id(self) -> str:
        """Sixteen hex digits."""
        return request_id(self.bundle_sha256, self.settings)


def approvals(home: Path) -> dict[str, Approval]:
    """Return the current approvals by id; a file that is unreadable, edited or without limits approves nothing."""
    found = {}
    for path in sorted(approvals_folder(home).glob("*.json")):
        try:
            approval = Approval.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            _log.warning("%s approves nothing: it cannot be read (%s).", path, type(error).__name__)
            continue
        if approval.egress.schema_version != LIST_VERSION:
            _log.warning(
                "%s approves nothing: it was written by an earlier version of cdtl. Approve the run again.", path
            )
        elif approval.id != path.stem:
            _log.warning("%s approves nothing: its name is not the hash of its content.", path)
        elif not approval.settings.get(INITIAL_WEIGHTS):
            _log.warning(
                "%s approves nothing: it was written by an earlier version of cdtl and has no limits. Ask the "
                "coordinator for a request of this version and approve that.", path,
            )  # fmt: skip
        else:
            found[approval.id] = approval
    return found


def withdraw(home: Path, id: str, *, note: str = "", clock: Callable[[], float] = time.time) -> None:
    """Take a run off the list; this takes effect at once, even during the run.

    Args:
        home: The site's folder.
        id: Id of the approval.
        note: Who withdrew it and why, for the site's own records.
        clock: Seconds since 1970.

    Raises:
        ConfigError: It is not on the list.
        PrivacyError: `id` is no name of an approval.
        CheckpointError: It cannot be removed; or it is off the list, and the log of approvals cannot be written.
    """
    with one_at_a_time(home):
        take_off(home, id, note, clock)


def take_off(home: Path, id: str, note: str, clock: Callable[[], float]) -> None:
    """Do what `withdraw` does, with its arguments and errors, inside a block of `one_at_a_time`."""
    path = inside(approvals_folder(home), f"{id}.json")
    try:
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        raise ConfigError(f"no approval {id} at this site: cdtl site status lists them.") from None
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        record_approval(home, "withdrawn", id, clock=clock, **({"note": note} if note else {}))
    except CheckpointError as error:  # a withdrawal must not wait for a full disk
        raise CheckpointError(f"{id} is withdrawn, but its line in the log of approvals is missing: {error}") from None


def approvals_folder(home: Path) -> Path:
    """Return the folder of the list."""
    return home / "approvals"
