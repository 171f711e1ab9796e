"""Results of a study from its cells: out-of-fold scores per draw, figures per receiver, means over receivers."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core import __version__
from cdtl_core.config import SimulationConfig, SiteConfig
from cdtl_core.metrics.metrics import auroc, sensitivity_at, weighted_auroc
from cdtl_core.metrics.summary import registered_metrics, summarise
from cdtl_core.results.comparison import ArmResult, Comparison, Donors, LeftOut, Point, Size
from cdtl_core.results.report import Estimate
from cdtl_core.simulation.arms import ALONE, control_of
from cdtl_core.simulation.cell import CELLS
from cdtl_core.simulation.hierarchy import Figure, difference, site_resamples
from cdtl_core.simulation.study import Study, cells_of
from cdtl_core.simulation.summary import Block, outcomes_of, rows_of

__all__ = ["OutOfFold", "join_folds", "mean_of", "tally"]

Floats = npt.NDArray[np.float64]
_Read = Mapping[tuple[int, int, int], Mapping[str, Any]]
"""Seed, run and fold to the contents of a cell's file."""
_KEPT = ("auprc", "brier", "accuracy", "balanced_accuracy", "majority_rate")
_BINS = 10


@dataclass(frozen=True)
class OutOfFold:
    """A receiver's images in the order of its files, each scored by a model that did not train on its patient.

    Attributes:
        labels: Class index per image, N.
        patients: Number of each image's patient, N.
        folds: Index of the fold that tested it, N.
        probabilities: N K.
        positive: Index of the positive class.
        training_patients: Mean over folds.
    """

    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.int64]
    folds: npt.NDArray[np.int64]
    probabilities: Floats
    positive: int
    training_patients: float

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """Whether each image is positive."""
        return np.asarray(self.labels == self.positive)

    @property
    def score(self) -> Floats:
        """Probability of the positive class."""
        return self.probabilities[:, self.positive]

    @property
    def ranks(self) -> Floats:
        """Mean rank of each image within its fold, in (0, 1), since models of different folds have different scales."""
        found = np.empty(len(self.labels))
        for fold in np.unique(self.folds):
            members = self.folds == fold
            _, index, counts = np.unique(self.score[members], return_inverse=True, return_counts=True)
            found[members] = (np.cumsum(counts) - counts / 2)[index] / members.sum()
        return found


@dataclass(frozen=True)
class _Figures:
    """All figures of one arm at one receiver."""

    draws: Sequence[OutOfFold]
    auroc: Figure
    log_loss: Figure
    calibration_error: Figure


def tally(config: SimulationConfig, study: Study, left_out: Sequence[LeftOut], out: Path) -> Comparison:
    """Return the result of a study whose cells are all finished.

    Args:
        config: The federation.
        study: What was compared.
        left_out: Cells that are not possible.
        out: Folder of the study.
    """
    blocks, points = dict[tuple[Donors, Size], Block](), list[Point]()
    for site in config.sites:
        for donors, size in _parts(study, left_out, site):
            read = _read(study, site.site, size, out)
            arms = {name: _figures(study, site.site, read, donors, name) for name in study.methods}
            points.append(_point(config, study, site, donors, size, arms))
            block = blocks.setdefault((donors, size), {})
            block[site.site] = {name: found.auroc for name, found in arms.items()}
    rows, compared = rows_of(study, blocks)
    return Comparison(
        cdtl_version=__version__,
        name=config.run.name,
        settings=config.run.model_dump(mode="json", exclude={"method", "seed"}),
        methods=study.methods,
        seeds=study.seeds,
        folds=study.folds,
        runs=study.runs,
        targets=study.targets,
        donors=study.donors,
        patients=study.patients,
        compared=compared,
        rows=rows,
        outcomes=outcomes_of(study, blocks),
        points=tuple(points),
        left_out=tuple(left_out),
    )


def join_folds(found: Sequence[Mapping[str, Any]]) -> OutOfFold:
    """Join the folds of one draw; each is the contents of a cell's file for a receiver."""
    order = np.argsort(np.concatenate([fold["images"] for fold in found]))
    labels, patients, probabilities = (
        np.concatenate([fold[name] for fold in found])[order] for name in ("labels", "patients", "probabilities")
    )
    folds = np.repeat(np.arange(len(found)), [len(fold["images"]) for fold in found])[order]
    training = float(np.mean([fold["training_patients"] for fold in found]))
    return OutOfFold(labels, patients, folds, probabilities, found[0]["positive"], training)


def mean_of(plays: Sequence[OutOfFold]) -> OutOfFold:
    """Return the same images with the mean of their probabilities, for example over the runs of one draw."""
    mean = np.mean([play.probabilities for play in plays], axis=0)
    training = float(np.mean([play.training_patients for play in plays]))
    return replace(plays[0], probabilities=mean, training_patients=training)


def _parts(study: Study, left_out: Sequence[LeftOut], site: SiteConfig) -> Iterator[tuple[Donors, Size]]:
    """Return the sets of donors and sizes of a receiver; none for a site that is not a target."""
    absent = {(one.patients, one.donors) for one in left_out if one.target == site.site}
    for donors in study.donors:
        for size in study.patients:
            if site.site in study.targets and not absent & {(size, None), (size, donors)}:
                yield donors, size


def _read(study: Study, target: str, size: Size, out: Path) -> _Read:
    cells = [cell for cell in cells_of(study) if (cell.target, cell.patients) == (target, size)]
    return {
        (cell.seed, cell.run, cell.fold): json.loads((out / CELLS / cell.file).read_text(encoding="utf-8"))
        for cell in cells
    }


def _figures(study: Study, target: str, read: _Read, donors: Donors, method: str) -> _Figures:
    draws = [
        mean_of([_joined(study, read, seed, run, donors, method) for run in range(study.runs)]) for seed in study.seeds
    ]
    one = draws[0]
    weights, count = site_resamples(target, one.patients), len(np.unique(one.patients))
    ranks = [draw.ranks for draw in draws]
    losses, gaps = [_losses(draw) for draw in draws], [_gaps(draw) for draw in draws]
    total = weights.sum(axis=0)
    of_auroc = [weighted_auroc(one.truth, rank, weights) for rank in ranks]
    of_loss = [loss @ weights / total for loss in losses]
    of_gap = [np.abs(gap @ weights).sum(axis=0) / total for gap in gaps]
    return _Figures(
        draws,
        Figure(np.array([auroc(one.truth, rank) for rank in ranks]), np.stack(of_auroc, axis=1), count),
        Figure(np.array([loss.mean() for loss in losses]), np.stack(of_loss, axis=1), count),
        Figure(np.array([np.abs(gap.sum(axis=1)).sum() / gap.shape[1] for gap in gaps]), np.stack(of_gap, 1), count),
    )


def _joined(study: Study, read: _Read, seed: int, run: int, donors: Donors, method: str) -> OutOfFold:
    folds = [read[seed, run, fold] for fold in range(study.folds)]
    return join_folds([{**fold, "probabilities": fold["scores"][donors][method]} for fold in folds])


def _losses(draw: OutOfFold) -> Floats:
    """Return the log-loss of each image, N; a probability of 0 counts as the smallest float above 0."""
    own = draw.probabilities[np.arange(len(draw.labels)), draw.labels]
    return np.asarray(-np.log(np.maximum(own, np.finfo(np.float64).tiny)), np.float64)


def _gaps(draw: OutOfFold) -> Floats:
    """Return probability minus truth of each image, in its bin and 0 in others: bins N."""
    index = np.minimum((draw.score * _BINS).astype(np.int64), _BINS - 1)
    found = np.zeros((_BINS, len(index)))
    found[index, np.arange(len(index))] = draw.score - draw.truth
    return found


def _point(
    config: SimulationConfig,
    study: Study,
    site: SiteConfig,
    donors: Donors,
    size: Size,
    arms: Mapping[str, _Figures],
) -> Point:
    one = arms[ALONE].draws
    return Point(
        target=site.site,
        modality=site.modality,
        synthetic=site.data.phantom is not None,
        donors=donors,
        donor_sites=tuple(
            other.site
            for other in config.sites
            if other.site != site.site and (donors == "all" or other.modality != site.modality)
        ),
        patients=size,
        training_patients=round(float(np.mean([draw.training_patients for draw in one])), 2),
        tested_patients=arms[ALONE].auroc.num_patients,
        tested_images=len(one[0].labels),
        results={method: _result(method, arms) for method in study.methods},
    )


def _result(method: str, arms: Mapping[str, _Figures]) -> ArmResult:
    mine, alone = arms[method], arms[ALONE]
    others = [name for name in (ALONE, "fedbn", control_of(method, arms)) if name in arms and name != method]
    metrics = [_metrics(draw) for draw in mine.draws]
    return ArmResult(
        auroc=Estimate.of(difference(mine.auroc)),
        auroc_by_draw=tuple(_number(value) for value in mine.auroc.draws.tolist()),
        log_loss=Estimate.of(difference(mine.log_loss)),
        calibration_error=Estimate.of(difference(mine.calibration_error)),
        metrics={name: _number(float(np.mean([one[name] for one in metrics]))) for name in metrics[0]},
        minus={str(name): Estimate.of(difference(mine.auroc.less(arms[str(name)].auroc))) for name in others},
        log_loss_minus_alone=None if method == ALONE else Estimate.of(difference(mine.log_loss.less(alone.log_loss))),
        calibration_error_minus_alone=None
        if method == ALONE
        else Estimate.of(difference(mine.calibration_error.less(alone.calibration_error))),
    )


def _metrics(draw: OutOfFold) -> dict[str, float]:
    usual = summarise(draw.truth, draw.score)
    high = sensitivity_at(draw.truth, draw.score, specificity=0.9)
    return {**{name: usual[name] for name in (*_KEPT, *registered_metrics())}, "sensitivity_at_90_specificity": high}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
