"""A coordinator's runs: one folder each, with the code and settings that sites approve, and the run's state.

::

    DIR/runs/<name>/config.toml     the resolved settings
    DIR/runs/<name>/request.json    what sites approve
    DIR/runs/<name>/bundle.fab      the code, byte for byte
    DIR/runs/<name>/run.json        status, kept by the service
    DIR/runs/<name>/enrolled.json   the enrolment of its sites, written before each try
    DIR/runs/<name>/progress.json, rounds.jsonl, checkpoints/, outcome.json    written by the run itself
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core.config.folders import RunFolder
from cdtl_core.deploy.members import members
from cdtl_core.errors import CheckpointError, FederationError
from cdtl_core.system.durable import replace_bytes, replace_json
from cdtl_core.system.foreign import read_json

__all__ = [
    "ENDED",
    "RunState",
    "enrolled_patients",
    "load_run_state",
    "queue_run",
    "run_folders",
    "save_enrolled",
    "save_run_state",
]
__all__ += ["stop_run"]

ENDED = {"completed", "incomplete", "failed", "stopped"}
_STATE = "run.json"


class RunState(BaseModel):
    """State of a run.

    Attributes:
        status: Ended runs are in `ENDED`; incomplete: some site has no model.
        flower_run: Flower's number of the current try; empty if there is none.
        tries: Flower runs since the last complete round.
        round: The last complete round when the last try began.
        reason: Why it ended, a sentence.
        exit_code: Exit code at its end.
        queued_at: Seconds since 1970.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["queued", "running", "completed", "incomplete", "failed", "stopped"] = "queued"
    flower_run: str = ""
    tries: int = 0
    round: int = 0
    reason: str = ""
    exit_code: int = 0
    queued_at: float = 0.0


def queue_run(run: Path) -> None:
    """Ask the coordinator's service to start or continue a run; a completed run is not played again."""
    state = load_run_state(run)
    if state is None or state.status in ENDED - {"completed"}:
        for path in (RunFolder(run).outcome, run / "stop"):
            path.unlink(missing_ok=True)
        save_run_state(run, RunState(queued_at=time.time()))


def stop_run(folder: Path, name: str) -> None:
    """Ask the coordinator's service to stop a run.

    Raises:
        FederationError: There is no such run under way.
    """
    run = folder / "runs" / name
    state = load_run_state(run)
    if state is None or state.status in ENDED:
        raise FederationError(f"no run {name} is under way: cdtl server status lists the runs.")
    replace_bytes(run / "stop", b"")


def run_folders(folder: Path) -> Iterator[Path]:
    """Return the folders of all requested runs, the oldest first."""
    found = [(state.queued_at, path) for path in (folder / "runs").glob("[!.]*") if (state := load_run_state(path))]
    yield from (path for _, path in sorted(found))


def load_run_state(run: Path) -> RunState | None:
    """Return a run's state; None if it was not requested.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = run / _STATE
    if not path.exists():
        return None
    try:
        return RunState.model_validate_json(path.read_bytes())
    except ValidationError:
        raise CheckpointError(f"{path} is damaged: remove it and start the run again.") from None


def save_run_state(run: Path, state: RunState) -> None:
    """Save a run's state."""
    replace_json(run / _STATE, state.model_dump(mode="json"))


def save_enrolled(folder: Path, run: Path) -> None:
    """Write the enrolment of the coordinator's sites for a run, which compares their introductions with it."""
    contracts = {member.site: member.enrolment.contract.model_dump(mode="json") for member in members(folder)}
    replace_json(RunFolder(run).enrolled, contracts)


def enrolled_patients(run: Path) -> dict[str, str]:
    """Return site to the rounded number of patients in the contract of its enrolment."""
    return {site: f"~{contract['patients']}" for site, contract in read_json(RunFolder(run).enrolled).items()}
