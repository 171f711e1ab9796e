"""Flower's ServerApp: runs a federation, and writes its progress and its outcome to files for other processes."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from cdtl_core.config.folders import RunFolder
from cdtl_core.errors import CdtlError, CheckpointError, FederationError
from cdtl_core.system.durable import disk_fault, replace_json
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.program import set_thread_defaults
from cdtl_core.system.progress import listen

__all__ = ["app"]

RUNS = "CDTL_RUNS"
"""Environment variable of a coordinator's ServerApp with the folder of its runs. A simulation has none."""
_KEPT = ("method", "round", "rounds", "waiting")
set_thread_defaults()
app = ServerApp()
_log = get_logger("cdtl.server")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation to its end, from its last checkpoint if there is one."""
    from cdtl_core.config.settings import unflatten

    config = unflatten(context.run_config)
    run = RunFolder(_home(context, config.name))
    with _keeping_progress(run):
        try:
            from cdtl_core.coordinator.exchange import shorten_waits
            from cdtl_core.coordinator.run import (
                play_run,
            )  # imported here: it takes seconds, and progress.json comes first

            if RUNS in os.environ:
                shorten_waits()
            missing = play_run(grid, config, run, deployed=RUNS in os.environ)
        except (CdtlError, OSError) as error:
            fault = disk_fault(error) if isinstance(error, OSError) else error
            _log.error("%s", fault)
            with suppress(CheckpointError):  # the disk may be the fault; then the run is tried again
                _save_outcome(run, "failed", str(fault), fault.exit_code)
            raise fault from error
    _save_outcome(run, "incomplete" if missing else "completed", missing)


def _home(context: Context, name: str) -> Path:
    """Return the run's folder, from the caller or from the environment of the process that Flower starts."""
    if home := context.node_config.get("home") or os.environ.get("CDTL_RUN"):
        return Path(str(home))
    if runs := os.environ.get(RUNS):
        return Path(runs) / name
    raise FederationError("the server has no run directory: start it with cdtl.")


@contextmanager
def _keeping_progress(run: RunFolder) -> Iterator[None]:
    """Keep ``progress.json`` of a deployed run: the process, the round, and the sites that the run waits for."""
    if RUNS not in os.environ:
        yield
        return
    now: dict[str, object] = {"pid": os.getpid()}
    replace_json(run.progress, now)

    def hear(fields: Mapping[str, object]) -> None:
        found = {name: fields[name] for name in _KEPT if name in fields}
        if "round" in found:
            found.setdefault("waiting", {})
        if any(now.get(name) != value for name, value in found.items()):
            now.update(found, since=round(time.time(), 1))
            replace_json(run.progress, now)

    with listen(hear):
        yield


def _save_outcome(run: RunFolder, outcome: str, reason: str = "", exit_code: int = 0) -> None:
    """Write ``outcome.json`` of a deployed run: completed, incomplete (a site has no model) or failed, and why.

    Args:
        run: The run's folder.
        outcome: The outcome.
        reason: A sentence.
        exit_code: Exit code of the command.
    """
    if RUNS in os.environ:
        replace_json(run.outcome, {"outcome": outcome, "reason": reason, "exit_code": exit_code})
