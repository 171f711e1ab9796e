"""What a deployed run is doing and how it ended, in files that other processes read; a simulation has none."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cdtl_core.system.durable import replace_json
from cdtl_core.system.progress import listen

__all__ = ["OUTCOME_FILE", "PROGRESS_FILE", "keeping_progress", "save_outcome"]

OUTCOME_FILE, PROGRESS_FILE = "outcome.json", "progress.json"
RUNS = "CDTL_RUNS"
"""Environment variable of a coordinator's ServerApp: the folder of its runs."""
_KEPT = ("method", "round", "rounds", "waiting")


@contextmanager
def keeping_progress(home: Path) -> Iterator[None]:
    """Keep ``progress.json`` in a deployed run's directory: the process, the round, and whom the run waits for."""
    if RUNS not in os.environ:
        yield
        return
    now: dict[str, object] = {"pid": os.getpid()}
    replace_json(home / PROGRESS_FILE, now)

    def hear(fields: Mapping[str, object]) -> None:
        found = {name: fields[name] for name in _KEPT if name in fields}
        if "round" in found:
            found.setdefault("waiting", {})
        if any(now.get(name) != value for name, value in found.items()):
            now.update(found, since=round(time.time(), 1))
            replace_json(home / PROGRESS_FILE, now)

    with listen(hear):
        yield


def save_outcome(home: Path, outcome: str, reason: str = "", exit_code: int = 0) -> None:
    """Write ``outcome.json``: completed, incomplete (a site has no model) or failed, and why."""
    if RUNS in os.environ:
        replace_json(home / OUTCOME_FILE, {"outcome": outcome, "reason": reason, "exit_code": exit_code})
