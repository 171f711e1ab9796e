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
    "empty": "of 7.8 CPU seconds of this run of cdtl, five rounds take 3.0 (row round-empty) and importing torch, "
    "timm, torchvision and Flower 2.4; the rest is the sites' ends with their models, flushed to the disk, and the "
    "initial weights (4c5ca14)",
    "train": "training is nearly all of it: see what the plain loop would reach",
}


def _wall(run: Run) -> float:
    return run.wall_s


def _cpu(run: Run) -> float:
    return run.cpu_s


def _over(session: Session, *, job: str, arm: str, of: Callable[[Run], float]) -> Measured:
    peer, own = [of(run) for run in session.plays(job, arm)], [of(run) for run in session.plays(job, "cdtl")]
    if not peer:
        return Measured(None, "not played: give --nvflare PYTHON of an environment with nvflare and this torch")
    bare = [of(run) for run in session.plays(job, "bare")]
    note = (
        f"{middle(peer):.1f} s against {middle(own):.1f} s; the plain loop, which sends nothing, takes "
        f"{middle(bare):.1f} s, {median_ratio(peer, bare):.2f}"
    )
    return Measured(median_ratio(peer, own), note, {"peer_s": peer, "cdtl_s": own, "bare_s": bare}, _FLOORS[job])


def _row(arm: str, job: str, bar: float) -> Row:
    of, what = (_wall, "whole process, no training") if job == "empty" else (_cpu, "CPU seconds with training")
    measure = partial(_over, job=job, arm=arm, of=of)
    needs = ((job, "bare"), (job, "cdtl"), (job, arm))
    return Row(f"{arm}-{job}", f"{_NAMES[arm]} over cdtl: {what}", bar, measure, "at least", needs=needs)


ROWS = (
    _row("ray", "empty", 4.0),
    _row("ray", "train", 1.3),
    _row("nvflare", "empty", 7.0),
    _row("nvflare", "train", 1.4),
)
