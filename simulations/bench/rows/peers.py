"""Flower's Ray simulation and NVFlare's simulator over cdtl, on the same job."""

from collections.abc import Callable
from functools import partial

from simulations.bench.program import Run
from simulations.bench.ratio import median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_NAMES = {"ray": "Flower's Ray simulation", "nvflare": "NVFlare's simulator"}
_FLOORS = {
    "empty": "measured in the same turns: a plain loop that also rounds, packs, checks, sums in float64, blends and "
    "stores would reach {ratio:.2f}, with {seconds:.1f} s",
    "train": "training is nearly all of it: the plain loop, measured in the same turns, would reach {ratio:.2f}",
}
_BELOW = {"empty": "floor", "train": "bare"}


def _wall(run: Run) -> float:
    return run.wall_s


def _cpu(run: Run) -> float:
    return run.cpu_s


def _over(session: Session, *, job: str, arm: str, of: Callable[[Run], float]) -> Measured:
    peer, own = [of(run) for run in session.plays(job, arm)], [of(run) for run in session.plays(job, "cdtl")]
    if not peer:
        return Measured(None, "not played: give --nvflare PYTHON of an environment with nvflare and this torch")
    bare = [of(run) for run in session.plays(job, "bare")]
    least = [of(run) for run in session.plays(job, _BELOW[job])]
    note = (
        f"{middle(peer):.1f} s against {middle(own):.1f} s; the plain loop, which sends nothing, takes "
        f"{middle(bare):.1f} s, {median_ratio(peer, bare):.2f}"
    )
    floor = _FLOORS[job].format(ratio=median_ratio(peer, least), seconds=middle(least))
    figures = {"peer_s": peer, "cdtl_s": own, "bare_s": bare, "floor_s": least}
    return Measured(median_ratio(peer, own), note, figures, floor, len(own))


def _row(arm: str, job: str, bar: float) -> Row:
    of, what = (_wall, "whole process, no training") if job == "empty" else (_cpu, "CPU seconds with training")
    measure = partial(_over, job=job, arm=arm, of=of)
    arms = dict.fromkeys(("bare", _BELOW[job], "cdtl", arm))
    needs = tuple((job, one) for one in arms)
    return Row(f"{arm}-{job}", f"{_NAMES[arm]} over cdtl: {what}", bar, measure, "at least", needs=needs)


ROWS = (
    _row("ray", "empty", 4.0),
    _row("ray", "train", 1.3),
    _row("nvflare", "empty", 7.0),
    _row("nvflare", "train", 1.4),
)
