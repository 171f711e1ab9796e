"""Memory: of a whole simulation over the bare loop's, and of the server with many sites over that with few."""

from functools import partial

from simulations.bench.program import play, python_program
from simulations.bench.ratio import alternate, median_ratio, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_NEEDS = (("memory", "bare"), ("memory", "cdtl"))
_FEW, _MANY = 4, 64


def _simulation(session: Session) -> Measured:
    bare, own = ([float(run.peak_pss) for run in session.plays(*need)] for need in _NEEDS)
    note = f"{middle(own) / 1e6:.0f} MB against {middle(bare) / 1e6:.0f} MB"
    floor = "Flower, typer, pydantic, scikit-learn and scipy in the same process as torch"
    return Measured(median_ratio(own, bare), note, {"cdtl_bytes": own, "bare_bytes": bare}, floor)


def _server(session: Session) -> Measured:
    arms = {str(sites): partial(_play_server, sites) for sites in (_FEW, _MANY)}
    found = alternate(arms, min(session.runs, 3))
    few, many = found[str(_FEW)], found[str(_MANY)]
    note = f"{middle(many) / 1e6:.0f} MB with {_MANY} sites against {middle(few) / 1e6:.0f} MB with {_FEW}"
    return Measured(median_ratio(many, few), note, {"few_bytes": few, "many_bytes": many})


def _play_server(sites: int) -> float:
    module = "simulations.bench.arms.server_memory"
    return float(play(python_program(module, sites, "{folder}/out"), memory=True).peak_pss)


ROWS = (
    Row("memory", "peak memory (PSS of the process tree) over the bare loop", 1.3, _simulation, needs=_NEEDS),
    Row("server-memory", "server memory for 64 sites of ResNet-18 over that for 4", 1.1, _server, minutes=2),
)
