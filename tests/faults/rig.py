"""Runs in separate processes that are killed, stopped and starved, and their results.

A run is a child forked from this warm process, in which torch is imported and nothing was computed yet: a kill costs
the time since the last round, not the start of Python.
"""

import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.cli.main import DISK_FAULTS
from cdtl_core.config import SimulationConfig
from cdtl_core.errors import CdtlError, CheckpointError
from cdtl_core.federation.checkpoint import load_latest
from cdtl_core.simulation.simulate import resume_simulation, simulate
from cdtl_core.system.durable import disk_fault
from cdtl_core.system.progress import listen

DEADLINE_S = 120.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux: a rig that is killed leaves no run behind


@dataclass
class Fault:
    """A line of the table; `kills` counts kill -9 alone."""

    name: str
    tried: int = 0
    survived: int = 0
    repeated: int | None = 0
    lost: int = 0
    kills: int = 0

    def row(self) -> tuple[object, ...]:
        return self.name, self.tried, self.survived, "-" if self.repeated is None else self.repeated, self.lost

    def compare(self, cut: Path, whole: Path, *, tries: int = 1) -> None:
        """Count a finished run against the undisturbed one, and fail if anything is not the same to the last bit."""
        self.tried += tries
        self.repeated = (self.repeated or 0) + repeated_rounds(cut)
        lost = lost_updates(cut, whole)
        self.lost += lost
        assert models(cut) == models(whole), f"{self.name}: other models than the undisturbed run"
        assert (cut / "report.json").read_bytes() == (whole / "report.json").read_bytes()
        assert lost == 0
        self.survived += tries


def undisturbed(config: SimulationConfig, out: Path) -> Path:
    """The run as it is without faults."""
    assert finished(play(config, out)) == 0, said(out)
    return out


def play(
    config: SimulationConfig,
    out: Path,
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> int:
    """Begin or go on with a run in a child, which calls `before` and `after`; returns its process number."""
    out.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        before()
        _run(config, out)
        code = 0
    except CdtlError as error:
        code = error.exit_code
        note(out, f"{type(error).__name__}: {error}")
    except OSError as error:  # as the command line ends
        code = CheckpointError.exit_code if error.errno in DISK_FAULTS else 99
        note(out, str(disk_fault(error)) if error.errno in DISK_FAULTS else traceback.format_exc())
    except BaseException:
        code = 99
        note(out, traceback.format_exc())
    finally:
        after()
        sys.stdout.flush()
        os._exit(code)


def _run(config: SimulationConfig, out: Path) -> None:
    """In the child: play, and write down each round that begins (the file is not the run's own)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    diary = os.open(beside(out, "began"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    method = [""]

    def hear(fields: Mapping[str, object]) -> None:
        method[0] = str(fields.get("method", method[0]))
        if "rounds" in fields:
            os.write(diary, f"{method[0]} {fields['round']}\n".encode())

    with listen(hear):
        if (out / "config.toml").exists():
            resume_simulation(out)
        else:
            simulate(config, out)


def beside(out: Path, what: str) -> Path:
    """A file of the rig's own; not on a disk that a test fills."""
    return Path(os.environ.get("CDTL_RIG", str(out.parent))) / f"{out.name}.{what}"


def note(out: Path, text: str) -> None:
    with open(beside(out, "said"), "a") as file:
        file.write(text + "\n")


def said(out: Path) -> str:
    """Return the output of failed children of a run."""
    path = beside(out, "said")
    return path.read_text() if path.exists() else ""


def finished(pid: int) -> int:
    """Wait for a child; its exit code, or minus the signal that ended it."""
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def wait_or_strike(pid: int, seconds: float, number: int) -> int | None:
    """Give a child some time, then send it a signal; its exit code if it was done before."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        pause.wait(0.005)  # the random moment is the point, there is no event to await
    os.kill(pid, number)
    return None


def killed_until_done(config: SimulationConfig, out: Path, choose: random.Random, most: int) -> int:
    """Kill -9 a run at random moments and go on with it until it is done; how often it was killed.

    Half of the moments are drawn from the start of the process, preparation and end included; half from the start of
    a round that is drawn, too.
    """
    kills = 0
    while kills < most:
        pid = play(config, out)
        code = await_rounds(out, pid, choose.randrange(1, 4)) if choose.random() < 0.5 else None
        if code is None:
            mean = choose.choice([0.02, 0.1, 0.5])
            code = wait_or_strike(pid, choose.expovariate(1 / mean), signal.SIGKILL)
        if code is not None:
            assert code == 0, said(out)
            return kills
        finished(pid)
        kills += 1
    assert finished(play(config, out)) == 0, said(out)
    return kills


def await_rounds(out: Path, pid: int, more: int) -> int | None:
    """Wait until a child has begun this number of rounds; return its exit code if it ended before."""
    diary, pause = beside(out, "began"), threading.Event()
    start = size = diary.stat().st_size if diary.exists() else 0
    while size - start < more * len("cdtl 1\n"):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        pause.wait(0.002)
        size = diary.stat().st_size if diary.exists() else 0
    return None


def rounds_done(out: Path, method: str = "cdtl") -> int:
    """Complete rounds of a method."""
    state, _ = load_latest(out / "checkpoints" / method)
    return state.round if state else 0


def cut_after(config: SimulationConfig, out: Path, round: int) -> None:
    """Play until a round's checkpoint stands, then kill -9."""
    pid, deadline, pause = play(config, out), time.monotonic() + DEADLINE_S, threading.Event()
    folder = out / "checkpoints" / "cdtl" / f"round-{round:04d}"
    while not folder.exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), said(out)
        assert time.monotonic() < deadline
        pause.wait(0.002)
    os.kill(pid, signal.SIGKILL)
    finished(pid)


def models(run: Path) -> dict[str, bytes]:
    """Every model and every score that a run leaves at its sites."""
    found = sorted(run.glob("sites/*/*.safetensors")) + sorted(run.glob("sites/*/models/*/*.safetensors"))
    found += sorted(run.glob("sites/*/models/*/*.csv"))
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def repeated_rounds(out: Path) -> int:
    """Rounds that were begun more than once."""
    began = beside(out, "began").read_text().split("\n")[:-1]
    return len(began) - len(set(began))


def lost_updates(cut: Path, whole: Path) -> int:
    """Updates that counted in the undisturbed run and not, or not with the same figures, in the other."""
    return len(_updates(whole) - _updates(cut))


def _updates(run: Path) -> set[str]:
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    return {
        json.dumps([line["method"], line["round"], site, figures.get("val_loss"), figures.get("train_loss")])
        for line in lines
        for site, figures in line.get("sites", {}).items()
    }
