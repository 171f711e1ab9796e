"""`compare` on two Ray nodes of one core each over one node, and with one of two killed in the middle."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from simulations.bench.program import play, python_program
from simulations.bench.ratio import alternate, median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session
from simulations.raylets import Raylets, wait_until

__all__ = ["ROWS"]

_STUDY = ("demo", "--methods", "alone,fedbn,cdtl", "--seeds", "1", "--folds", "5", "--patients", "20,all")
_CELLS = 40
_MOST_RUNS = 3


def _speed(session: Session) -> Measured:
    found = alternate({count: partial(_rates, count) for count in (1, 2)}, min(session.runs, _MOST_RUNS))
    later, whole = ({count: [one[at] for one in runs] for count, runs in found.items()} for at in (0, 1))
    note = (
        f"{middle(later[2]):.0f} cells an hour against {middle(later[1]):.0f} once every node has ended one; with the "
        f"start of the nodes' processes and the features {middle(whole[2]):.0f} against {middle(whole[1]):.0f}, "
        f"{median_ratio(whole[2], whole[1]):.2f}"
    )
    floor = "two busy nodes share this machine's caches and memory, with Ray's own processes and the driver beside them"
    return Measured(median_ratio(later[2], later[1]), note, {"later": later, "whole": whole}, floor)


def _rates(count: int) -> tuple[float, float]:
    """Cells an hour: after the first one of each node, and from the end of the preparation."""
    with _nodes(count) as (nodes, folder):
        _compare(folder / "study", "--engine", "ray", "--address", nodes.address)
        prepared = (folder / "study" / "left_out.json").stat().st_mtime
        ends = sorted(path.stat().st_mtime for path in (folder / "study" / "cells").iterdir())
    later = (len(ends) - count) / (ends[-1] - ends[count - 1])
    return 3600 * later, 3600 * len(ends) / (ends[-1] - prepared)


def _kill(_session: Session) -> Measured:
    with _nodes(2) as (nodes, folder):
        whole, killed = folder / "whole", folder / "killed"
        _compare(whole)
        killer = threading.Thread(target=_kill_second, args=(nodes, killed / "cells"))
        killer.start()
        _compare(killed, "--engine", "ray", "--address", nodes.address)
        killer.join()
        cells = len(list((killed / "cells").iterdir()))
        same = cells == _CELLS and (whole / "compare.json").read_bytes() == (killed / "compare.json").read_bytes()
    return Measured(float(same), f"{cells} of {_CELLS} cells; 1: compare.json has the bytes of one machine's")


def _kill_second(nodes: Raylets, cells: Path) -> None:
    wait_until(lambda: cells.exists() and len(list(cells.iterdir())) >= _CELLS // 2, timeout_s=600)
    nodes.kill(nodes.nodes[1])


@contextmanager
def _nodes(count: int) -> Iterator[tuple[Raylets, Path]]:
    with tempfile.TemporaryDirectory(prefix="cdtl-bench-") as name:
        nodes = Raylets(Path(name))
        try:
            for _ in range(count):
                nodes.add()
            yield nodes, Path(name)
        finally:
            nodes.end()


def _compare(out: Path, *where: str) -> None:
    play(python_program("cdtl_core.cli.main", "compare", *_STUDY, "--out", out, *where), OMP_NUM_THREADS=1)


ROWS = (
    Row("cluster", "compare on two Ray nodes of one core over one, cells an hour", 1.8, _speed, "at least", minutes=6),
    Row("cluster-kill", "the same with one node killed in the middle: the same bytes", 1.0, _kill, "at least", unit=""),
)
