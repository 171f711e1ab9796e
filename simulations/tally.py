"""From the cells of a study to its result: out-of-fold scores put together, averaged over seeds, and compared."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core import __version__
from cdtl_core.config import SimulationConfig, SiteConfig
from cdtl_core.learning.metrics import Bootstrap, auroc, bootstrap_auroc, mean_bootstrap, sensitivity_at
from cdtl_core.learning.summary import summarise
from cdtl_core.reporting.comparison import ArmResult, Comparison, Point, claim_of
from cdtl_core.reporting.report import Estimate
from simulations.arms import ALONE, is_control, theta0_control
from simulations.cell import CELLS
from simulations.study import Cell, Size, Study

__all__ = ["OutOfFold", "join_folds", "mean_of", "tally"]

_KEPT = ("auprc", "brier", "ece", "accuracy", "balanced_accuracy", "majority_rate")


@dataclass(frozen=True)
class OutOfFold:
    """A target's images, each scored by the model that never saw its patient, in the order of the site's files.

    Attributes:
        labels: Class index per image, N.
        patients: Number of each image's patient, N.
        probabilities: N K.
        positive: Index of the positive class.
        training_patients: Mean over folds.
    """

    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    positive: int
    training_patients: float

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """Whether each image is positive."""
        return np.asarray(self.labels == self.positive)

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """Probability of the positive class."""
        return self.probabilities[:, self.positive]


def tally(config: SimulationConfig, study: Study, out: Path) -> Comparison:
    """The result of a study of which all cells are played."""
    sites = [site for site in config.sites if site.site in study.targets]
    return Comparison(
        cdtl_version=__version__,
        name=config.run.name,
        settings=config.run.model_dump(mode="json", exclude={"method", "seed"}),
        methods=study.methods,
        seeds=study.seeds,
        folds=study.folds,
        runs=study.runs,
        targets=study.targets,
        points=tuple(_point(study, site, size, out) for site in sites for size in study.patients),
    )


def join_folds(found: Sequence[Mapping[str, Any]]) -> OutOfFold:
    """One seed's folds as one; each is what a cell wrote of a target."""
    order = np.argsort(np.concatenate([fold["images"] for fold in found]))
    labels, patients, probabilities = (
        np.concatenate([fold[name] for fold in found])[order] for name in ("labels", "patients", "probabilities")
    )
    training = float(np.mean([fold["training_patients"] for fold in found]))
    return OutOfFold(labels, patients, probabilities, found[0]["positive"], training)


def mean_of(plays: Sequence[OutOfFold]) -> OutOfFold:
    """The same images with the mean of their probabilities over seeds, or over the runs of one."""
    one = plays[0]
    mean = np.mean([play.probabilities for play in plays], axis=0)
    training = float(np.mean([play.training_patients for play in plays]))
    return OutOfFold(one.labels, one.patients, mean, one.positive, training)


def _point(study: Study, site: SiteConfig, size: Size, out: Path) -> Point:
    scores = {
        method: [_of_seed(study, Cell(method, seed, 0, size), site.site, out) for seed in study.seeds]
        for method in study.methods
    }
    means = {method: mean_of(found) for method, found in scores.items()}
    seed = study.seeds[0]
    draws = {method: _drawn(mean, seed) for method, mean in means.items()}
    singles = {method: mean_bootstrap([_drawn(one, seed) for one in found]) for method, found in scores.items()}
    one = means[study.methods[0]]
    return Point(
        target=site.site,
        modality=site.modality,
        synthetic=site.data.phantom is not None,
        patients=size,
        training_patients=round(one.training_patients, 2),
        tested_patients=len(np.unique(one.patients)),
        tested_images=len(one.labels),
        results={method: _result(method, scores[method], means[method], draws, singles) for method in study.methods},
    )


def _of_seed(study: Study, first: Cell, target: str, out: Path) -> OutOfFold:
    """What one site has: the mean of its runs on the same patients."""
    return mean_of([_read(study, replace(first, run=run), target, out) for run in range(study.runs)])


def _read(study: Study, first: Cell, target: str, out: Path) -> OutOfFold:
    cells = [replace(first, fold=fold) for fold in range(study.folds)]
    texts = [(out / CELLS / cell.file).read_text(encoding="utf-8") for cell in cells]
    return join_folds([json.loads(text)["targets"][target] for text in texts])


def _drawn(scores: OutOfFold, seed: int) -> Bootstrap:
    return bootstrap_auroc(scores.truth, scores.score, scores.patients, seed=seed)


def _result(
    method: str,
    seeds: Sequence[OutOfFold],
    mean: OutOfFold,
    draws: Mapping[str, Bootstrap],
    singles: Mapping[str, Bootstrap],
) -> ArmResult:
    references = [name for name in draws if name != method and (name == ALONE or is_control(name))]
    minus_of_one = {name: Estimate.of(singles[method].less(singles[name])) for name in references}
    control = theta0_control(method, draws)
    claimed = method != ALONE and not is_control(method)
    return ArmResult(
        auroc=Estimate.of(draws[method].interval),
        auroc_by_seed=tuple(_number(auroc(seed.truth, seed.score)) for seed in seeds),
        auroc_of_one=Estimate.of(singles[method].interval),
        minus_of_one=minus_of_one,
        metrics=_metrics(mean),
        minus={name: Estimate.of(draws[method].less(draws[name])) for name in references},
        theta0_control=control,
        claim=claim_of(minus_of_one[ALONE], minus_of_one[control] if control else None) if claimed else None,
    )


def _metrics(mean: OutOfFold) -> dict[str, float | None]:
    usual = summarise(mean.truth, mean.score)
    found = {name: usual[name] for name in _KEPT}
    found["sensitivity_at_90_specificity"] = sensitivity_at(mean.truth, mean.score, specificity=0.9)
    with np.errstate(divide="ignore"):
        found["log_loss"] = float(-np.log(mean.probabilities[np.arange(len(mean.labels)), mean.labels]).mean())
    return {name: _number(value) for name, value in found.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
