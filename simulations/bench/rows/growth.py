"""Ten times the rounds, the sites, the images: time linear, memory flat; small networks, so that growth is seen."""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from cdtl_core.config.settings import save_toml
from simulations.bench.program import Run, play, python_program
from simulations.bench.ratio import alternate, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS", "memory_growth", "slope_ratio"]

_TIMES = (1, 4, 10)
_BASE = {"rounds": 3, "sites": 2, "images": 40}
_MOST_RUNS = 3


class _Size(NamedTuple):
    """Medians of one size's runs."""

    cpu_s: float
    peak_pss: float


def slope_ratio(sizes: tuple[float, ...], seconds: tuple[float, ...]) -> float:
    """Return how much steeper the last part is than the first: 1 is linear; a fixed start cost does not count."""
    first = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0])
    last = (seconds[-1] - seconds[1]) / (sizes[-1] - sizes[1])
    return last / first


def memory_growth(peaks: tuple[float, ...]) -> float:
    """The largest run's memory over the smallest's."""
    return peaks[-1] / peaks[0]


@cache
def _figures(folder: Path, runs: int) -> Mapping[str, list[_Size]]:
    arms = {}
    for what in _BASE:
        for times in _TIMES:
            config = _write(folder / f"{what}{times}", {**_BASE, what: _BASE[what] * times})
            command = python_program("cdtl_core.cli.main", "simulate", config, "--out", "{folder}/out")
            arms[what, times] = partial(play, command, memory=True)
    found = alternate(arms, min(runs, _MOST_RUNS))
    return {what: [_middle_of(found[what, times]) for times in _TIMES] for what in _BASE}


def _middle_of(runs: list[Run]) -> _Size:
    return _Size(middle([run.cpu_s for run in runs]), middle([float(run.peak_pss) for run in runs]))


def _write(folder: Path, size: Mapping[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("ultrasound", "histology")
    phantom = [{"phantom": {"patients": size["images"], "seed": number}} for number in range(size["sites"])]
    sites = [{"site": f"s{n}", "modality": kinds[n % 2], "data": data} for n, data in enumerate(phantom)]
    settings: dict[str, Any] = {
        "name": "growth",
        "methods": ["fedbn"],
        "image": {"size": 64},
        "model": {"backbone": "test_efficientnet", "weights": "random"},
        "train": {"steps": 2, "batch_size": 8},
        "federation": {"rounds": size["rounds"]},
        "sites": sites,
    }
    save_toml(folder / "config.toml", settings)
    return folder / "config.toml"


def _time(session: Session) -> Measured:
    found = _figures(session.folder / "growth", session.runs)
    slopes = {what: slope_ratio(_TIMES, tuple(run.cpu_s for run in runs)) for what, runs in found.items()}
    _draw(found, session.plot)
    note = "; ".join(f"{what}: {', '.join(f'{run.cpu_s:.1f}' for run in runs)} s" for what, runs in found.items())
    return Measured(max(slopes.values()), f"x1, x4, x10 of CPU time, {note}", {"slopes": slopes})


def _memory(session: Session) -> Measured:
    found = _figures(session.folder / "growth", session.runs)
    growth = {what: memory_growth(tuple(run.peak_pss for run in runs)) for what, runs in found.items()}
    note = "; ".join(f"{w}: {', '.join(f'{run.peak_pss / 1e6:.0f}' for run in runs)} MB" for w, runs in found.items())
    floor = "images are mapped from disk: pages that were read count until the system needs them"
    return Measured(max(growth.values()), f"x1, x4, x10, {note}", {"growth": growth}, floor)


def _draw(found: Mapping[str, list[_Size]], path: Path | None) -> None:
    if path is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    time, memory = figure.subplots(1, 2)
    for what, runs in found.items():
        time.plot(_TIMES, [run.cpu_s for run in runs], marker="o", label=what)
        memory.plot(_TIMES, [run.peak_pss / 1e6 for run in runs], marker="o", label=what)
    time.set(xlabel="times as many", ylabel="CPU time (s)", ylim=(0, None))
    memory.set(xlabel="times as many", ylabel="peak memory (MB)", ylim=(0, None))
    time.legend()
    figure.savefig(path, dpi=120)


ROWS = (
    Row(
        "growth-time",
        "10 times the rounds, sites, images: slope of the last stretch over the first",
        1.2,
        _time,
        minutes=5,
    ),
    Row("growth-memory", "likewise: peak memory of the largest over the smallest", 1.1, _memory),
)
