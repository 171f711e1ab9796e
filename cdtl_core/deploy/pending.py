"""Runs that the site's egress filter refused because they are not approved, kept for the operator to inspect.

The bundle's bytes are saved and never unpacked. A coordinator cannot fill the disk: only the latest `MAX_PENDING` are
kept, with bundles of at most `MAX_BUNDLE` bytes.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.config.schema import Flat, Sha256
from cdtl_core.config.settings import unflatten
from cdtl_core.deploy.approval_list import approvals
from cdtl_core.deploy.refusing import refusals
from cdtl_core.deploy.request import ApprovalRequest, load_request, make_request, request_id
from cdtl_core.errors import CdtlError, ConfigError
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.foreign import get_logger, visible

__all__ = ["PendingRun", "find", "find_run", "keep_pending", "known_request", "pending"]
__all__ += ["request_of"]

MAX_PENDING = 16
MAX_BUNDLE = 8 * 1024 * 1024
"""Bytes of a bundle that is kept or run; cdtl's own has less than one megabyte."""
_log = get_logger("cdtl.filter")


class PendingRun(BaseModel):
    """A run without approval: its code, its settings, and when and why it was first refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle_sha256: Sha256
    settings: Flat
    run_id: str = Field(pattern=r"^[0-9]{1,20}$")
    seen_at: float
    reason: str

    @property
    def id(self) -> str:
        """Sixteen hex digits, the same as of its approval."""
        return request_id(self.bundle_sha256, self.settings)

    @property
    def name(self) -> str:
        """The name that the coordinator gave the run; empty if its settings are not those of a run."""
        return visible(self.settings.get("name", ""))

    @property
    def what(self) -> str:
        """The run by all of its names, for a person who looks for one of them."""
        return f"{self.id} (run {self.name}, bundle {self.bundle_sha256[:8]}...)"


def keep_pending(
    home: Path, bundle: bytes, settings: Flat, *, run_id: int, reason: str, clock: Callable[[], float] = time.time
) -> PendingRun:
    """Store a refused run with its bundle; the oldest beyond `MAX_PENDING` are removed.

    Args:
        home: The site's folder.
        bundle: The bundle's bytes.
        settings: All settings of the run.
        run_id: Flower's number of the run.
        reason: Why it was refused.
        clock: Seconds since 1970.

    Raises:
        CheckpointError: The disk is full or read-only.
    """
    sha256 = hashlib.sha256(bundle).hexdigest()
    run = PendingRun(bundle_sha256=sha256, settings=settings, run_id=str(run_id), seen_at=clock(), reason=reason)
    path = _folder(home) / f"{run.id}.json"
    if not path.exists():
        replace_bytes(path.with_suffix(".fab"), bundle)
        replace_bytes(path, run.model_dump_json(indent=1).encode())
    for old in list(pending(home))[:-MAX_PENDING]:
        for suffix in (".json", ".fab"):
            (_folder(home) / f"{old}{suffix}").unlink(missing_ok=True)
    return run


def pending(home: Path) -> dict[str, PendingRun]:
    """Return the pending runs by id, oldest first, without those approved or refused since."""
    decided = approvals(home).keys() | refusals(home).keys()
    return {run.id: run for run in sorted(_stored(home), key=lambda run: run.seen_at) if run.id not in decided}


def find(home: Path, prefix: str) -> PendingRun:
    """Return the pending run whose id or bundle hash begins with `prefix`, or whose name it is.

    Raises:
        ConfigError: None or several do.
    """
    runs = list(pending(home).values())
    begun = [run for run in runs if run.id.startswith(prefix) or run.bundle_sha256.startswith(prefix)]
    found = begun or [run for run in runs if run.name == prefix]
    if len(found) != 1:
        known = ", ".join(run.what for run in found or runs) or "none"
        raise ConfigError(
            f"'{visible(prefix)}' is not a file and matches {len(found)} pending runs (pending: {known}): "
            "give the coordinator's request.json, or the id or the name of one run."
        )
    return found[0]


def find_run(home: Path, what: str) -> tuple[str, str]:
    """Return id and name of a run: of a request's file, a half approved run's id, or as `find` does.

    Raises:
        ConfigError: It is none of these.
    """
    if Path(what).is_file():
        request = load_request(Path(what))
        return request_id(request.bundle_sha256, request.settings), request.name
    if (approval := approvals(home).get(what)) is not None:
        return what, visible(approval.settings["name"])
    run = find(home, what)
    return run.id, run.name


def known_request(home: Path, id: str) -> ApprovalRequest | None:
    """Return the request of a run that waits, was approved or was refused here; None if its code is not known any more.

    Args:
        home: The site's folder.
        id: The run's id.

    Raises:
        ConfigError: Its settings are not those of a cdtl run.
    """
    if (approval := approvals(home).get(id)) is not None:
        return make_request(unflatten(approval.settings), approval.bundle_sha256)
    return next((request_of(run) for run in _stored(home) if run.id == id), None)


def request_of(run: PendingRun) -> ApprovalRequest:
    """Return the pending run as a request, to show and approve; builds the network for the egress list.

    Raises:
        ConfigError: Its settings are not those of a cdtl run.
    """
    try:
        return make_request(unflatten(run.settings), run.bundle_sha256)
    except CdtlError as error:
        raise ConfigError(f"the pending run {run.id} does not fit this version of cdtl ({error}): refuse it.") from None


def _stored(home: Path) -> list[PendingRun]:
    found = []
    for path in _folder(home).glob("*.json"):
        try:
            found.append(PendingRun.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            _log.warning("%s is ignored because it cannot be read (%s).", path, type(error).__name__)
    return found


def _folder(home: Path) -> Path:
    return home / "pending"
