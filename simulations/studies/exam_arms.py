"""What the studies of exams share: arms that train one site alone on the same exams, their scores, and paired figures.

An arm that labels every image trains on images with the label of their exam, and an exam's score is the mean (or the
highest) of the probabilities of its images. All other arms pool the images of an exam. Everything else is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import changed_run, save_toml
from cdtl_core.data.source import rows_of_manifest
from cdtl_core.data.split import Split
from cdtl_core.federation.finish import candidate, finish_one
from cdtl_core.federation.site import OwnModel, train_own
from cdtl_core.metrics.metrics import auroc, weighted_auroc
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.results.scores import scores_of
from cdtl_core.site.home import open_site

__all__ = ["IMAGES", "Cell", "Changes", "Floats", "play", "pooled_arm", "print_table", "trained"]

Floats = npt.NDArray[np.float64]
Changes = Mapping[str, Any]
IMAGES = {"task": {"unit": "image"}}
RESAMPLES = 2000
SPLITS: tuple[Split, ...] = ("test", "val")


def pooled_arm(pooling: str) -> Changes:
    """Return the settings of an arm that pools the images of an exam."""
    return {"task": {"unit": "exam"}, "model": {"pooling": pooling}}


@dataclass(frozen=True)
class Cell:
    """The test exams of one training, E: their names, truth and the scores by each arm."""

    seed: int
    exams: tuple[str, ...]
    positive: npt.NDArray[np.bool_]
    scores: Mapping[str, Floats]


def play(home: Path, own: Mapping[str, Any], run: RunConfig, arms: Mapping[str, Changes]) -> Cell:
    """Train a site alone with the settings of each arm, and return the scores of its test exams.

    Args:
        home: Folder of the site; images and features that are in it are used again.
        own: Tree of its settings; `data.manifest` has the columns exam_id and split.
        run: What all arms share.
        arms: Name to changed settings. An arm of images gives two: judged by ``mean`` and by ``highest``.
    """
    save_toml(home / SITE_FILE, dict(own))
    rows = rows_of_manifest(Path(own["data"]["root"]) / own["data"]["manifest"])
    exam_of = {row.file.name: row.exam for row in rows} | {row.exam: row.exam for row in rows}
    exams, truth, scores = tuple[str, ...](), np.zeros(0, np.bool_), dict[str, Floats]()
    for name, changes in arms.items():
        found, positive, values = trained(home, changed_run(run, changes, name))["test"]
        names = np.array([exam_of[one] for one in found])
        exams = tuple(sorted(set(names.tolist())))
        groups: list[npt.NDArray[np.bool_]] = [names == exam for exam in exams]
        truth = np.array([positive[group].all() for group in groups])
        if changes["task"]["unit"] == "image":
            scores[f"{name}, mean"] = np.array([values[group].mean() for group in groups])
            scores[f"{name}, highest"] = np.array([values[group].max() for group in groups])
        else:
            scores[name] = np.array([values[group].item() for group in groups])
    return Cell(run.seed, exams, truth, scores)


def trained(home: Path, run: RunConfig) -> dict[Split, tuple[tuple[str, ...], npt.NDArray[np.bool_], Floats]]:
    """Return names, truth and probabilities of the units of test and validation, after all rounds of local training."""
    site = open_site(home, run)
    initial, own = build_initial_weights(run.model, run.seed, run.image.size), OwnModel()
    for number in range(1, run.federation.rounds + 1):
        own = train_own(site, initial, own, number)
    outcome = finish_one(site, candidate(site, initial, own.memory, own.order(run.federation.rounds)))
    scores = {split: scores_of(site, outcome, split) for split in SPLITS}
    return {split: (found.images, found.positive, found.used) for split, found in scores.items()}


def print_table(cells: Sequence[Cell], baselines: Sequence[str]) -> None:
    """Print each arm's AUROC by exam, and its paired differences to the baselines in points with 95 % intervals.

    Two intervals are printed: over the exams (they are resampled once for all cells) and over the seeds (Student's).

    Args:
        cells: The trainings; an exam keeps its name over all of them.
        baselines: Names of arms.
    """
    print("| arm | AUROC | " + " | ".join(f"less {name}" for name in baselines) + " |")
    print("|---|---|" + "---|" * len(baselines))
    draws = _draws(cells)
    for arm in cells[0].scores:
        columns = [f"{_mean(cells, arm):.3f}"]
        columns += ["" if arm == other else _difference(cells, draws, arm, other) for other in baselines]
        print(f"| {arm} | " + " | ".join(columns) + " |", flush=True)


def _mean(cells: Sequence[Cell], arm: str) -> float:
    return float(np.mean([auroc(cell.positive, cell.scores[arm]) for cell in cells]))


def _draws(cells: Sequence[Cell]) -> dict[str, Floats]:
    """Return how often each exam counts in each resample, R."""
    names = sorted({exam for cell in cells for exam in cell.exams})
    counts = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return dict(zip(names, counts.T.astype(np.float64), strict=True))


def _difference(cells: Sequence[Cell], draws: Mapping[str, Floats], arm: str, other: str) -> str:
    """Return the difference of two arms in words.

    Args:
        cells: The trainings.
        draws: Weights of the exams in each resample.
        arm: The one.
        other: What is subtracted.
    """
    seeds = sorted({cell.seed for cell in cells})
    by_seed = np.array([_mean([c for c in cells if c.seed == seed], arm) for seed in seeds])
    by_seed -= np.array([_mean([c for c in cells if c.seed == seed], other) for seed in seeds])
    resampled = []
    for cell in cells:
        weights = np.stack([draws[exam] for exam in cell.exams])
        one, two = (weighted_auroc(cell.positive, cell.scores[name], weights) for name in (arm, other))
        resampled.append(one - two)
    low, high = np.nanquantile(np.nanmean(resampled, axis=0), [0.025, 0.975])
    told = f"{100 * by_seed.mean():+.1f} (exams {100 * low:+.1f} to {100 * high:+.1f}"
    if len(seeds) > 1:
        half = float(student.ppf(0.975, len(seeds) - 1)) * by_seed.std(ddof=1) / len(seeds) ** 0.5
        told += f"; seeds {100 * (by_seed.mean() - half):+.1f} to {100 * (by_seed.mean() + half):+.1f}"
    return told + ")"
