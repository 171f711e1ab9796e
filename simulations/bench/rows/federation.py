"""Cost of `cdtl simulate` relative to a plain PyTorch loop with the same steps on the same images."""

from itertools import pairwise

from simulations.bench.program import Run
from simulations.bench.ratio import median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS", "later_rounds"]

_TRAIN = (("train", "bare"), ("train", "cdtl"))
_EMPTY = (("empty", "bare"), ("empty", "floor"), ("empty", "cdtl"))
_CALLS = "cdtl starts up (typer, pydantic, Flower), decodes in processes of their own, and writes every round to disk"


def later_rounds(run: Run, clock: str = "starts") -> float:
    """Seconds of a round, of the clock or (``cpu``) of processors: the median of the rounds between first and last."""
    starts = run.said[clock]
    return middle([after - before for before, after in pairwise(starts[1:])])


def _cpu(session: Session) -> Measured:
    bare, own = ([run.cpu_s for run in session.plays(*need)] for need in _TRAIN)
    note = f"{middle(own):.1f} s of processors against {middle(bare):.1f} s"
    return Measured(median_ratio(own, bare), note, {"cdtl_s": own, "bare_s": bare}, _CALLS, len(own))


def _wall(session: Session) -> Measured:
    bare, own = ([run.wall_s for run in session.plays(*need)] for need in _TRAIN)
    note = f"{middle(own):.1f} s against {middle(bare):.1f} s"
    return Measured(median_ratio(own, bare), note, {"cdtl_s": own, "bare_s": bare}, _CALLS, len(own))


def _round(session: Session) -> Measured:
    plays = {arm: session.plays(job, arm) for job, arm in _EMPTY}
    walls = {arm: [later_rounds(run) for run in runs] for arm, runs in plays.items()}
    worked = {arm: [later_rounds(run, "cpu") for run in runs] for arm, runs in plays.items()}
    note = (
        f"{1e3 * middle(worked['cdtl']):.0f} ms of processors a round against {1e3 * middle(worked['bare']):.0f} ms, 4 "
        f"sites of ResNet-18; by the clock {1e3 * middle(walls['cdtl']):.0f} ms against "
        f"{1e3 * middle(walls['bare']):.0f} ms, {median_ratio(walls['cdtl'], walls['bare']):.2f}"
    )
    floor = (
        "measured in the same turns: a plain loop that also rounds, packs, checks, sums in float64, blends and stores "
        f"(`simulations/bench/arms/floor.py`) takes {1e3 * middle(worked['floor']):.0f} ms, "
        f"{median_ratio(worked['floor'], worked['bare']):.2f}"
    )
    value = median_ratio(worked["cdtl"], worked["bare"])
    return Measured(value, note, {"wall_s": walls, "cpu_s": worked}, floor)


_SAME = "cdtl simulate over a bare PyTorch loop, 4 sites, 3 rounds of 12 steps, EfficientNet-Lite0"
ROWS = (
    Row("simulate-cpu", f"{_SAME}: CPU seconds", 1.05, _cpu, needs=_TRAIN),
    Row("simulate-wall", f"{_SAME}: wall", 1.05, _wall, needs=_TRAIN),
    Row(
        "round-empty",
        "without training: CPU seconds of a later round over the bare loop's",
        3.0,
        _round,
        needs=_EMPTY,
    ),
)
