"""`compare` on two Ray nodes of one core each over one node, and with one of two killed in the middle.

The study is prepared and played once on this machine. Each run on nodes continues a copy of it that has no cells, so
its images are read and its features computed only once.
"""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulations.bench.program import play, python_program
from simulations.bench.ratio import median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session
from simulations.raylets import Raylets, wait_until

__all__ = ["ROWS"]

_STUDY = ("demo", "--methods", "alone,fedbn,cdtl", "--seeds", "1", "--folds", "5", "--patients", "20,all")
_COUNT = 40
_FIRST = 2
"""Cells of a node that are not counted: processes start, and one node may start before the other."""
_CELLS, _RESULT = "cells", "compare.json"


def _speed(session: Session) -> Measured:
    turns = [_rates(session) for _ in range(session.long_runs)]
    one, two = ([rates[count] for rates in turns] for count in (1, 2))
    note = f"{middle(two):.0f} cells an hour against {middle(one):.0f} once every node has ended one"
    floor = "two busy nodes share this machine's caches and memory, with Ray's own processes and the driver beside them"
    return Measured(median_ratio(two, one), note, {"one": one, "two": two}, floor, len(turns))


def _rates(session: Session) -> dict[int, float]:
    """Cells an hour by nodes: the second one joins when the study has ended on the first."""
    whole, rates = _study(session), {}
    with _nodes() as (nodes, folder):
        for count in (1, 2):
            nodes.add()
            out = _without_cells(whole, folder / f"on{count}")
            _continue(out, nodes)
            ends = sorted(path.stat().st_mtime for path in (out / _CELLS).iterdir())
            first = _FIRST * count  # so many cells have ended, hence one on every node
            rates[count] = 3600 * (len(ends) - first) / (ends[-1] - ends[first - 1])
    return rates


def _kill(session: Session) -> Measured:
    whole = _study(session)
    with _nodes() as (nodes, folder):
        for _ in range(2):
            nodes.add()
        out = _without_cells(whole, folder / "killed")
        killer = threading.Thread(target=_kill_second, args=(nodes, out / _CELLS))
        killer.start()
        _continue(out, nodes)
        killer.join()
        cells = len(list((out / _CELLS).iterdir()))
        same = cells == _COUNT and (out / _RESULT).read_bytes() == (whole / _RESULT).read_bytes()
    note = f"{cells} of {_COUNT} cells; 1: compare.json has the bytes of one machine's"
    return Measured(float(same), note, runs=1)


def _study(session: Session) -> Path:
    """Return the study as this machine's own processes play it; played when it is first asked for."""
    folder = session.folder / "study"
    if not (folder / _RESULT).exists():
        session.say("playing the study of the cluster's rows on this machine")
        _compare(*_STUDY, "--out", folder)
    return folder


def _without_cells(whole: Path, out: Path) -> Path:
    """Copy a study as it is before its first cell, with its features; return the copy."""
    return shutil.copytree(whole, out, ignore=shutil.ignore_patterns(_CELLS, _RESULT))


def _continue(out: Path, nodes: Raylets) -> None:
    _compare("--resume", out, "--engine", "ray", "--address", nodes.address)


def _kill_second(nodes: Raylets, cells: Path) -> None:
    wait_until(lambda: cells.exists() and len(list(cells.iterdir())) >= _COUNT // 2, timeout_s=600)
    nodes.kill(nodes.nodes[1])


@contextmanager
def _nodes() -> Iterator[tuple[Raylets, Path]]:
    with tempfile.TemporaryDirectory(prefix="cdtl-bench-") as name:
        nodes = Raylets(Path(name))
        try:
            yield nodes, Path(name)
        finally:
            nodes.end()


def _compare(*words: object) -> None:
    play(python_program("cdtl_core.cli.main", "compare", *words), OMP_NUM_THREADS=1)


ROWS = (
    Row("cluster", "compare on two Ray nodes of one core over one, cells an hour", 1.8, _speed, "at least", minutes=10),
    Row("cluster-kill", "the same with one node killed in the middle: the same bytes", 1.0, _kill, "at least", unit=""),
)
