"""Runs that a person refused: they no longer wait for an approval, and who refused them and why is kept.

A refusal only tells people that the run was decided. The egress filter refuses every run that is not approved anyway.
"""

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core.config.schema import Line, inside
from cdtl_core.deploy.approval_list import approvals, take_off
from cdtl_core.deploy.records import record_approval
from cdtl_core.system.durable import one_at_a_time, replace_bytes
from cdtl_core.system.foreign import get_logger

__all__ = ["Refusal", "lift", "refusals", "refuse", "refused_at"]

_log = get_logger("cdtl.filter")


class Refusal(BaseModel):
    """Who refused a run and why; its file's name is the run's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Line
    note: Line
    refused_at: float


def refuse(home: Path, id: str, name: str, *, note: str = "", clock: Callable[[], float] = time.time) -> Refusal:
    """Refuse a run; approvals of it by others are withdrawn. Approving it later is possible.

    Args:
        home: The site's folder.
        id: Id of the run.
        name: The name that the coordinator gave the run.
        note: Who refused it and why, for the site's own records.
        clock: Seconds since 1970.

    Raises:
        PrivacyError: `id` is no name of a run.
        CheckpointError: The disk is full or read-only.
    """
    path = inside(home, "refused", f"{id}.json")
    with one_at_a_time(home):  # an approval that is written meanwhile must not stay beside the refusal
        if id in approvals(home):
            take_off(home, id, note, clock)
        refusal = Refusal(name=name, note=note, refused_at=clock())
        record_approval(home, "refused", id, note=note, clock=clock)
        replace_bytes(path, refusal.model_dump_json(indent=1).encode())
    return refusal


def refusals(home: Path) -> dict[str, Refusal]:
    """Return the refused runs by id; a file that cannot be read refuses nothing."""
    found = {}
    for path in sorted((home / "refused").glob("*.json")):
        try:
            found[path.stem] = Refusal.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            _log.warning("%s is ignored because it cannot be read (%s).", path, type(error).__name__)
    return found


def refused_at(home: Path, id: str) -> int | None:
    """Return when a run was refused, in nanoseconds since 1970; None if it is not refused."""
    try:
        return (home / "refused" / f"{id}.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def lift(home: Path, id: str) -> None:
    """Remove the refusal of a run, if there is one."""
    (home / "refused" / f"{id}.json").unlink(missing_ok=True)
