"""The evidence study of docs/protocol.md: what each receiver gains over alone, by donors and by size.

    python -m simulations.evidence_study DATA --out runs/evidence

Heads on frozen features (configs/scarce.toml). A receiver is made scarce while its donors keep all their patients.
Prints one line per method and size: mean gain over receivers, worst receiver, and the mean less FedBN.
"""

import argparse
import functools
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cdtl_core.apps import find_config
from cdtl_core.config import SimulationConfig
from cdtl_core.durable import replace_json
from cdtl_core.errors import DataError
from cdtl_core.federation.site import Site
from cdtl_core.learning.metrics import auroc
from cdtl_core.learning.weights import Weights
from cdtl_core.progress import report
from cdtl_core.settings import SITE_FILE, load_simulation, save_toml
from simulations.arms import arm_of
from simulations.cell import featured, scores_of
from simulations.crew import work_through
from simulations.folds import most_patients, scarce_site
from simulations.methods.loop import play

__all__ = ["Task", "main", "summary"]

Floats = npt.NDArray[np.float64]
Donors = Literal["other", "all"]
RECEIVERS = ("rio_logiq7", "rio_logiq5", "cairo", "mias")
ARMS = ("alone", "fedavg", "fedbn", "cdtl", "cdtl:shuffled")
SIZES = (20, 50, 200)
_FOLDS = 3
_RESAMPLES = 2000


@dataclass(frozen=True)
class Task:
    """One draw of one receiver with one set of donors: all folds, sizes and arms."""

    data: Path
    out: Path
    receiver: str
    donors: Donors
    draw: int
    sizes: tuple[int, ...]
    arms: tuple[str, ...]

    @property
    def file(self) -> Path:
        """Where its scores are kept: a study that is started again goes on."""
        return self.out / "cells" / f"{self.receiver}-{self.donors}-{self.draw}.json"


def play_task(task: Task) -> None:
    """Play a task and keep, per size and arm, the receiver's test scores of all folds."""
    if task.file.exists():
        return
    config = _config(task.data)
    everyone, theta0 = featured(config, task.out, config.run.model_copy(update={"seed": task.draw}).model_dump_json())
    sites = [site for site in everyone if site.name in _party(everyone, task)]
    found: dict[str, dict[str, list[Any]]] = {}
    for fold, size, arm in itertools.product(range(_FOLDS), task.sizes, task.arms):
        scores = _scores(config, sites, theta0, task, fold=fold, size=size, arm=arm)
        if scores is not None:
            found.setdefault(str(size), {}).setdefault(arm, []).append(scores)
    replace_json(task.file, found)


def summary(tasks: Sequence[Task]) -> dict[str, Any]:
    """Gains over alone in AUROC points, by set of donors, size and method.

    Intervals are 95 % percentiles of a hierarchical bootstrap over receivers, draws and patients.
    """
    told: dict[str, Any] = {}
    for donors, size in itertools.product(("other", "all"), tasks[0].sizes):
        cells = _cells([task for task in tasks if task.donors == donors], size)
        if not cells:
            continue
        methods = [arm for arm in tasks[0].arms if arm != "alone"]
        told[f"{donors}/{size}"] = {method: _line(cells, method) for method in methods}
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study and print its summary."""
    given = _arguments(arguments)
    tasks = [
        Task(given.data.resolve(), given.out.resolve(), receiver, donors, draw, given.sizes, given.arms)
        for draw in range(given.draws)
        for receiver in given.receivers
        for donors in ("other", "all")
    ]
    _prepare(tasks[0])
    for done, task in enumerate(work_through(tasks, play_task, jobs=given.jobs), start=1):
        print(f"{done} of {len(tasks)}: {task.receiver}, donors {task.donors}, draw {task.draw}", file=sys.stderr)
    told = summary(tasks)
    replace_json(given.out / "summary.json", {"draws": given.draws, "folds": _FOLDS, "gain": told})
    _print(told, given.draws)


def _prepare(task: Task) -> None:
    """Write each site's folder and compute all features once, before processes share them."""
    config = _config(task.data)
    for own in config.sites:
        save_toml(task.out / "sites" / own.site / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
    report(preparing="features")
    featured(config, task.out, config.run.model_dump_json())


@functools.lru_cache(maxsize=1)
def _config(data: Path) -> SimulationConfig:
    config = load_simulation(find_config(Path("scarce")), [f"data.root={data}"])
    return config.model_copy(update={"run": config.run.model_copy(update={"name": "evidence"})})


def _party(sites: Sequence[Site], task: Task) -> set[str]:
    """The receiver and its donors."""
    modality = next(site.modality for site in sites if site.name == task.receiver)
    donors = {site.name for site in sites if task.donors == "all" or site.modality != modality}
    return donors | {task.receiver}


def _scores(
    config: SimulationConfig, sites: Sequence[Site], theta0: Weights, task: Task, *, fold: int, size: int, arm: str
) -> dict[str, Any] | None:
    """Test scores of the receiver, or None where it has too few patients for this size."""
    receiver = next(site for site in sites if site.name == task.receiver)
    if size > most_patients(receiver, seed=task.draw, fold=fold, folds=_FOLDS):
        return None
    try:
        cut = scarce_site(receiver, seed=task.draw, fold=fold, folds=_FOLDS, patients=size)
    except DataError:
        return None
    chosen, party = arm_of(arm), [cut if site.name == task.receiver else site for site in sites]
    party = [cut] if arm == "alone" else chosen.sites(party, [task.receiver], seed=task.draw, folder=task.out)
    run = config.run.model_copy(update={"seed": task.draw})
    models = play(chosen.method, party, theta0, run, [task.receiver])
    told = scores_of(cut, models[task.receiver])
    return {
        "patients": told["patients"],
        "labels": [int(label == told["positive"]) for label in told["labels"]],
        "scores": [row[told["positive"]] for row in told["probabilities"]],
    }


@dataclass(frozen=True)
class _Cell:
    """All folds of one draw at one receiver: scores by arm for the same images."""

    receiver: str
    positive: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    scores: Mapping[str, Floats]
    folds: npt.NDArray[np.int64]


def _cells(tasks: Sequence[Task], size: int) -> list[_Cell]:
    cells = []
    for task in tasks:
        arms = json.loads(task.file.read_text(encoding="utf-8")).get(str(size), {})
        if len(arms.get("alone", [])) < _FOLDS:
            continue
        first = arms["alone"]
        number = [np.full(len(part["labels"]), fold) for fold, part in enumerate(first)]
        cells.append(
            _Cell(
                task.receiver,
                np.concatenate([np.array(part["labels"], bool) for part in first]),
                np.concatenate([np.array(part["patients"]) for part in first]),
                {arm: _joined(parts) for arm, parts in arms.items()},
                np.concatenate(number),
            )
        )
    return cells


def _joined(parts: Sequence[Mapping[str, Any]]) -> Floats:
    """Scores of all folds; each fold's model has its own scale, so each is ranked by itself first."""
    ranks = []
    for part in parts:
        order = np.argsort(np.argsort(np.array(part["scores"]), kind="stable"), kind="stable")
        ranks.append((order + 0.5) / len(order))
    return np.concatenate(ranks)


def _line(cells: Sequence[_Cell], method: str) -> dict[str, Any]:
    """Mean gain over alone in points with its interval, the worst receiver, and the mean less FedBN."""
    gains = {name: 100 * np.mean(list(values)) for name, values in _by_receiver(cells, method, "alone").items()}
    low, high = _interval(cells, method, "alone")
    worst = min(gains, key=lambda name: gains[name])
    line = {
        "mean": round(float(np.mean(list(gains.values()))), 2),
        "low": low,
        "high": high,
        "worst": round(float(gains[worst]), 2),
        "worst_receiver": worst,
        "receivers": {name: round(float(value), 2) for name, value in gains.items()},
    }
    if method != "fedbn" and "fedbn" in cells[0].scores:
        less = {name: 100 * np.mean(list(values)) for name, values in _by_receiver(cells, method, "fedbn").items()}
        line["less_fedbn"] = [round(float(np.mean(list(less.values()))), 2), *_interval(cells, method, "fedbn")]
    return line


def _by_receiver(cells: Sequence[_Cell], method: str, reference: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for cell in cells:
        value = auroc(cell.positive, cell.scores[method]) - auroc(cell.positive, cell.scores[reference])
        found.setdefault(cell.receiver, []).append(value)
    return found


def _interval(cells: Sequence[_Cell], method: str, reference: str) -> tuple[float, float]:
    """95 % of the mean difference in points, over resampled receivers, draws within them, and patients within draws."""
    rng = np.random.default_rng(0)
    names = sorted({cell.receiver for cell in cells})
    draws: dict[str, list[Floats]] = {name: [] for name in names}
    for cell in cells:
        draws[cell.receiver].append(_resampled(cell, method, reference, rng))
    means = []
    for _ in range(_RESAMPLES):
        chosen = rng.choice(len(names), len(names))
        of_receiver = []
        for place in chosen:
            mine = draws[names[place]]
            picked = rng.integers(len(mine), size=len(mine))
            of_receiver.append(np.mean([mine[one][rng.integers(len(mine[one]))] for one in picked]))
        means.append(100 * np.mean(of_receiver))
    low, high = np.percentile(means, [2.5, 97.5])
    return round(float(low), 2), round(float(high), 2)


def _resampled(cell: _Cell, method: str, reference: str, rng: np.random.Generator, count: int = 100) -> Floats:
    """Differences of AUROC over resampled patients."""
    names, index = np.unique(cell.patients, return_inverse=True)
    places = [np.flatnonzero(index == number) for number in range(len(names))]
    found = []
    for _ in range(count):
        rows = np.concatenate([places[number] for number in rng.integers(len(names), size=len(names))])
        positive = cell.positive[rows]
        found.append(auroc(positive, cell.scores[method][rows]) - auroc(positive, cell.scores[reference][rows]))
    return np.array([value for value in found if np.isfinite(value)])


def _print(told: Mapping[str, Any], draws: int) -> None:
    print(f"\nGain over alone in AUROC points, mean over receivers (95 % interval), {draws} draws x {_FOLDS} folds")
    for line in _lines(told):
        print(line)


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'donors':7s}{'patients':>9s}  {'method':15s}{'mean':>26s}  {'worst receiver':>22s}  {'less FedBN':>26s}"
    for key, methods in told.items():
        donors, size = key.split("/")
        for method, line in methods.items():
            mean = f"{line['mean']:+.1f} ({line['low']:+.1f} to {line['high']:+.1f})"
            worst = f"{line['worst']:+.1f} {line['worst_receiver']}"
            less = "{:+.1f} ({:+.1f} to {:+.1f})".format(*line["less_fedbn"]) if "less_fedbn" in line else ""
            yield f"{donors:7s}{size:>9s}  {method:15s}{mean:>26s}  {worst:>22s}  {less:>26s}"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The evidence study of docs/protocol.md.")
    parser.add_argument("data", type=Path, help="folder that holds bus_bra, busi, mini_mias and ucsb_he")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--arms", default=ARMS, type=_words)
    parser.add_argument("--receivers", default=RECEIVERS, type=_words)
    parser.add_argument("--sizes", default=SIZES, type=lambda text: tuple(map(int, _words(text))))
    return parser.parse_args(arguments)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
