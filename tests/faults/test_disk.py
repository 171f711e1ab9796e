"""Every write of a federation fails once: the run ends with a sentence or as usual, and nothing is lost.

The calls are counted in an undisturbed run. Then the run is played again and again in a child; in each, another call
fails with ENOSPC or EIO, once or from then on. With room again the run goes on and must end with the same bytes.
"""

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.privacy.ledger_file import read_ledger
from tests.conftest import TINY_SITES
from tests.faults.disk import EIO, ENOSPC, Call, Disk
from tests.faults.rig import Fault, finished, play, said
from tests.tables import Tries

pytestmark = pytest.mark.slow
Tiny = Callable[..., SimulationConfig]
WAYS = ((ENOSPC, True), (EIO, False), (EIO, True), (ENOSPC, False))
OWN_CODES = range(3, 9)
WORKERS = 2
PRIVATE: dict[str, Any] = {
    "dp": {"enabled": True, "target_epsilon": 4.0, "centre_steps": 2},
    "model": {"levels": [2, 3], "adapter": 3, "dropout": 0.0},
}


@dataclass(frozen=True)
class Trial:
    call: Call
    error: int
    lasting: bool

    def __str__(self) -> str:
        return f"{os.strerror(self.error)} {'from then on' if self.lasting else 'once'}: {self.call}"


def trials(calls: list[Call]) -> list[Trial]:
    """Every path to a call once, and every place (file, line and call) with both errors."""
    ways, found = cycle(WAYS), []
    for place in dict.fromkeys(call.place for call in calls):
        paths = [call for call in calls if call.place == place]
        found += [Trial(call, *next(ways)) for call in paths]
        missing = {ENOSPC, EIO} - {one.error for one in found if one.call.place == place}
        found += [Trial(paths[0], error, lasting=True) for error in missing]
    return found


def federation(tiny: Tiny, *, private: bool) -> SimulationConfig:
    """Two sites, two rounds; with privacy enough patients for it."""
    sites = [{**site, "data": {"phantom": {"patients": 60 if private else 12, "seed": 1}}} for site in TINY_SITES[1:]]
    short = {"federation": {"rounds": 2}, "train": {"steps": 1, "batch_size": 4}}
    return tiny(sites=sites, **short, **(PRIVATE if private else {}))


def counted(config: SimulationConfig, folder: Path) -> tuple[Path, list[Call]]:
    """An undisturbed run, and the calls it makes in their order."""
    disk, notes = Disk(), folder / "calls"
    pid = play(
        config, folder / "whole", before=disk.install, after=lambda: notes.write_bytes(pickle.dumps([*disk.seen]))
    )
    assert finished(pid) == 0, said(folder / "whole")
    return folder / "whole", pickle.loads(notes.read_bytes())


class Trials:
    """Plays trials, two at a time, and keeps what was wrong with each."""

    def __init__(self, config: SimulationConfig, whole: Path, folder: Path, line: Fault) -> None:
        self._config, self._whole, self._folder, self._line = config, whole, folder, line
        self.wrong: list[str] = []
        self.hit: set[tuple[str, int]] = set()

    def play(self, tried: list[Trial]) -> None:
        waiting = [self._steps(trial, self._folder / f"run-{number}") for number, trial in zip(count(), tried)]
        running: dict[int, Iterator[int]] = {}
        while waiting or running:
            while waiting and len(running) < WORKERS:
                steps = waiting.pop(0)
                running[next(steps)] = steps
            pid, status = os.wait()
            steps = running.pop(pid)
            try:
                running[steps.send(os.waitstatus_to_exitcode(status))] = steps  # type: ignore[attr-defined]
            except StopIteration:
                continue

    def _steps(self, trial: Trial, out: Path) -> Iterator[int]:
        """Yield steps with the fault, then without."""
        disk, hits = Disk(trial.call, error=trial.error, lasting=trial.lasting), out.with_name(f"{out.name}.hits")
        code = yield play(self._config, out, before=disk.install, after=lambda: hits.write_text(str(disk.failed)))
        if hits.exists() and int(hits.read_text()):
            self.hit.add((trial.call.place, trial.error))
        if code not in (0, *OWN_CODES) or "Traceback" in said(out):
            self.wrong.append(f"{trial}: exit code {code}: {said(out)}")
            return
        if code in OWN_CODES and not any(word in said(out) for word in ("space", "room", "check", "restore", "again")):
            self.wrong.append(f"{trial}: the sentence does not say what to do: {said(out)}")
        again = yield play(self._config, out)
        if again:
            self.wrong.append(f"{trial}: with room again: exit code {again}: {said(out)}")
            return
        try:
            if self._config.run.dp.enabled:
                check_private(self._config, out)
                self._line.tried, self._line.survived = self._line.tried + 1, self._line.survived + 1
            else:
                self._line.compare(out, self._whole)
        except AssertionError as error:
            self.wrong.append(f"{trial}: {error}")


def check_private(config: SimulationConfig, run: Path) -> None:
    """Noise is never the same twice, so models differ: every site has one, and every step is in its ledger.

    Steps that were reserved when the disk failed count as taken. A site may so have spent all a round early, and the
    journal names it.
    """
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    names, rounds = {own.site for own in config.sites}, config.run.federation.rounds
    assert [{*line["sites"], *line["spent"]} for line in lines if "sites" in line] == [names] * rounds
    assert set(lines[-1]["finish"]) == names
    ledgers = list(run.glob("sites/*/privacy/*/ledger.jsonl"))
    assert len(ledgers) == len(names)
    for path in ledgers:
        assert sum(one.steps for one in read_ledger(path.parent).history) >= rounds * config.run.train.steps
        assert len(read_ledger(path.parent).reservations) >= rounds


@pytest.mark.attack("nothing is lost on a full disk", "one failing write of a federation")
@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("step", [1, pytest.param(16, marks=pytest.mark.ci)], ids=["each", "some"])
def test_a_federation_survives_a_failing_write(
    step: int,
    private: bool,
    tiny: Tiny,
    fault: Callable[[str], Fault],
    tmp_path: Path,
    tries: Tries,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With privacy only what a plain federation does not write; CDTL_DISK_STEP plays fewer of all."""
    config = federation(tiny, private=private)
    whole, calls = counted(config, tmp_path)
    if private:
        plain = counted(federation(tiny, private=False), tmp_path / "plain")[1]
        calls = [call for call in calls if call not in plain]
    tried = trials(calls)[:: step * int(os.environ.get("CDTL_DISK_STEP", "1"))]
    played = Trials(config, whole, tmp_path, fault(f"failing write{' with privacy' if private else ''}"))
    played.play(tried)
    tries.add(len(tried))
    places = {(trial.call.place, trial.error) for trial in tried}
    with capsys.disabled():
        sys.stdout.write(f"\n{len(tried)} failing writes; {len(played.hit)} of {len(places)} places x errors hit\n")
    assert not played.wrong, "\n\n".join(played.wrong)
    assert played.hit == places
