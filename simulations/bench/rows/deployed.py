"""A round between hospitals, real processes on this machine, over the same network in a plain Flower app."""

from simulations.bench.row import Measured, Row
from simulations.bench.rows.script import figures_of
from simulations.bench.session import Session

__all__ = ["ROWS"]

_ROUNDS = 4
_ARMS = {"cdtl": "cdtl, deployed", "backbone": "Flower, same network", "plain": "Flower, ten tensors"}


def _measure(session: Session) -> Measured:
    repeats = max(1, session.runs // 3)  # each gives three rounds
    found = figures_of("round_cost", "--rounds", _ROUNDS, "--repeats", repeats)
    seconds = {arm: found[name]["median_s"] for arm, name in _ARMS.items()}
    note = (
        f"{seconds['cdtl']:.1f} s a round against {seconds['backbone']:.1f} s; against the same bytes in ten plain "
        f"tensors ({seconds['plain']:.1f} s) {found['ratios']['plain']:.2f}; {repeats} runs of {_ROUNDS - 1} rounds"
    )
    floor = "Flower starts a process for each message: here a fork, which imports the bundle and builds the network"
    return Measured(found["ratios"]["backbone"], note, found, floor, repeats)


ROWS = (
    Row("deployed", "deployed round, no training, 2 sites, over plain Flower, same network", 0.15, _measure, minutes=6),
)
