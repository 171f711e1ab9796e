"""Executes a coordinator's runs, one at a time, and restarts a crashed one from the last complete round."""

import time
from pathlib import Path

import psutil

from cdtl_core.config.folders import RunFolder
from cdtl_core.deploy.runs import ENDED, RunState, load_run_state, run_folders, save_enrolled, save_run_state
from cdtl_core.deploy.superlink import SuperLink
from cdtl_core.errors import FederationError
from cdtl_core.federation.journal import Ending, read_entries
from cdtl_core.flower import CONNECTION
from cdtl_core.results.text import ending_lines, round_lines
from cdtl_core.system.foreign import get_logger, read_json

__all__ = ["RoundLog", "RunKeeper"]

_log = get_logger("cdtl.deploy")
_LOOK_S = 60.0
_MOST_TRIES = 5


class RoundLog:
    """Logs the rounds and the end of runs; what a journal holds at the first look was logged before."""

    def __init__(self) -> None:
        self._said: dict[Path, int] = {}
        self._seen: dict[Path, int] = {}

    def say(self, run: Path) -> None:
        """Log each round, and the end, that the run's journal has got since the last look."""
        journal = RunFolder(run).journal
        changed = journal.stat().st_mtime_ns if journal.exists() else 0
        if self._seen.get(run) == changed:
            return
        self._seen[run] = changed
        entries, rounds = list(read_entries(journal)), read_json(RunFolder(run).progress).get("rounds", 0)
        for one in entries[self._said.get(run, len(entries)) :]:
            lines = ending_lines(one) if isinstance(one, Ending) else round_lines(one, rounds)
            _log.info("%s: %s", run.name, "; ".join(lines))
        self._said[run] = len(entries)


class RunKeeper:
    """Watches the oldest run that has not ended. Its whole state is on disk, so it can be killed at any moment."""

    def __init__(self, folder: Path, link: SuperLink) -> None:
        self._folder, self._link = folder, link
        self._looked = 0.0
        self._rounds = RoundLog()

    def lost(self) -> None:
        """Handle a new SuperLink: the run in progress is gone and is started again."""
        for run, state in self._open_runs():
            if state.status == "running" and not read_json(RunFolder(run).outcome):
                _log.info("%s: continues from round %d in a new Flower run", run.name, _last_round(run))
                self._end_flower_run(state)
                save_run_state(run, state.model_copy(update={"status": "queued", "flower_run": ""}))

    def keep(self) -> None:
        """Start, watch or end the current run."""
        for run, state in self._open_runs()[:1]:
            self._rounds.say(run)
            if (run / "stop").exists():
                self._stop(run, state)
            elif state.status == "queued":
                self._submit(run, state)
            elif outcome := read_json(RunFolder(run).outcome):
                self._close(run, state, outcome["outcome"], outcome["reason"], outcome["exit_code"])
            elif _is_dead(run):
                self._crashed(run, state, "its process has ended")
            elif time.monotonic() - self._looked > _LOOK_S:
                self._looked = time.monotonic()
                self._look(run, state)

    def _open_runs(self) -> list[tuple[Path, RunState]]:
        found = [(run, load_run_state(run)) for run in run_folders(self._folder)]
        return [(run, state) for run, state in found if state and state.status not in ENDED]

    def _submit(self, run: Path, state: RunState) -> None:
        done = _last_round(run)
        tries = 1 if done > state.round else state.tries + 1
        if tries > _MOST_TRIES:
            reason = f"it failed {_MOST_TRIES} times without a complete round: read {self._link.logs / 'run.log'}."
            self._close(run, state, "failed", reason, FederationError.exit_code)
            return
        for path in (RunFolder(run).outcome, RunFolder(run).progress):
            path.unlink(missing_ok=True)
        save_enrolled(self._folder, run)
        number, answer = self._link.flower.submit(run / "app", run / "settings.toml")
        if not number:
            _log.warning("%s: Flower did not take the run: %s", run.name, answer.strip()[-400:])
        status = "running" if number else "queued"
        after = {"status": status, "flower_run": number, "tries": tries, "round": done}
        save_run_state(run, state.model_copy(update=after))
        self._looked = time.monotonic()
        _log.info("%s: started from round %d as Flower run %s", run.name, done, number or "-")

    def _look(self, run: Path, state: RunState) -> None:
        """Ask Flower rarely, since a question costs a second of a core; check the run's process often."""
        status = self._link.flower.status(state.flower_run)
        if status.startswith("finished"):
            self._crashed(run, state, f"its Flower run ended as {status}")

    def _crashed(self, run: Path, state: RunState, why: str) -> None:
        """Queue a run again that is over without an outcome, which means that it crashed."""
        if read_json(RunFolder(run).outcome):
            return
        _log.warning("%s: %s", run.name, why)
        self._end_flower_run(state)
        save_run_state(run, state.model_copy(update={"status": "queued", "flower_run": ""}))

    def _stop(self, run: Path, state: RunState) -> None:
        self._end_flower_run(state)
        (run / "stop").unlink()
        self._close(run, state, "stopped", "stopped by the coordinator; the same command continues it.", 0)

    def _close(self, run: Path, state: RunState, status: str, reason: str, exit_code: int) -> None:
        after = {"status": status, "reason": reason, "exit_code": exit_code, "flower_run": ""}
        save_run_state(run, RunState.model_validate({**state.model_dump(), **after}))
        _log.info("%s: %s %s", run.name, status, reason)

    def _end_flower_run(self, state: RunState) -> None:
        if state.flower_run:
            self._link.flower.read("stop", state.flower_run, CONNECTION)


def _is_dead(run: Path) -> bool:
    """Whether the process of a run has started and ended."""
    pid = read_json(RunFolder(run).progress).get("pid")
    return pid is not None and not psutil.pid_exists(pid)


def _last_round(run: Path) -> int:
    """Return the last round that has a checkpoint."""
    folders = RunFolder(run).checkpoints().glob("*/round-*")
    return max((int(path.name.removeprefix("round-")) for path in folders), default=0)
