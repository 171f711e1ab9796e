"""Hundreds of kill -9 and stop/continue of a whole federation in one process, at random moments."""

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from tests.faults.rig import Fault, finished, killed_until_done, play, said, wait_or_strike

pytestmark = pytest.mark.slow
Tiny = Callable[..., SimulationConfig]
Line = Callable[[str], Fault]
Whole = Callable[[SimulationConfig], Path]


@pytest.mark.ci
def test_a_dozen_kills(tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path) -> None:
    kills_of("a dozen kills", 12, 0, tiny, whole, fault, tmp_path)


def test_two_hundred_kills(tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path) -> None:
    kills_of("200 kills", 200, 1, tiny, whole, fault, tmp_path)


def kills_of(what: str, count: int, seed: int, tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path) -> None:
    config = tiny(methods=("alone", "cdtl"))
    line, choose, number = fault("kill -9, one process"), random.Random(seed), 0
    left = count
    while left > 0:
        out = tmp_path / f"cut-{number}"
        number += 1
        kills = killed_until_done(config, out, choose, min(left, 15))
        line.compare(out, whole(config), tries=kills)
        line.kills += kills
        left -= kills
        assert number < 10 * count, what


@pytest.mark.ci
@pytest.mark.parametrize("seed", range(3))
def test_stopped_and_continued_at_random_moments(
    seed: int, tiny: Tiny, whole: Whole, fault: Line, tmp_path: Path
) -> None:
    config, out, choose = tiny(methods=("alone", "cdtl")), tmp_path / "stopped", random.Random(seed)
    pid, stops, code = play(config, out), 0, None
    while code is None and stops < 12:
        code = wait_or_strike(pid, choose.uniform(0.02, 0.3), signal.SIGSTOP)
        if code is None:
            threading.Event().wait(choose.uniform(0.0, 0.1))
            os.kill(pid, signal.SIGCONT)
            stops += 1
    assert (finished(pid) if code is None else code) == 0, said(out)
    assert stops > 0
    fault("stop and continue, one process").compare(out, whole(config), tries=stops)
