"""Memory of a whole simulation over the bare loop's."""

from simulations.bench.ratio import median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_NEEDS = (("memory", "bare"), ("memory", "cdtl"))


def _simulation(session: Session) -> Measured:
    bare, own = ([float(run.peak_pss) for run in session.plays(*need)] for need in _NEEDS)
    note = f"{middle(own) / 1e6:.0f} MB against {middle(bare) / 1e6:.0f} MB"
    floor = "Flower, typer, pydantic, scikit-learn and scipy in the same process as torch"
    return Measured(median_ratio(own, bare), note, {"cdtl_bytes": own, "bare_bytes": bare}, floor)


ROWS = (Row("memory", "peak memory (PSS of the process tree) over the bare loop", 1.15, _simulation, needs=_NEEDS),)
