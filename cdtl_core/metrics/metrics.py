"""AUROC with patient-level bootstrap intervals, and log-loss."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.errors import ModelError

__all__ = [
    "Bootstrap",
    "Interval",
    "auroc",
    "auroc_interval",
    "interval_of_draws",
    "log_loss_by_patient",
    "paired_difference",
]
__all__ += ["RESAMPLES", "bootstrap_auroc", "resample_of_seed", "resample_patients", "sensitivity_at"]
__all__ += ["weighted_auroc"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
RESAMPLES = 2000
_FEWEST_PATIENTS = 10


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; the ends are NaN with too few patients."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """An AUROC and its values in R resamples of the patients; NaN for a resample without a class."""

    value: float
    draws: Floats
    patients: Ints

    @property
    def interval(self) -> Interval:
        """Return the AUROC with its 95 % percentile interval."""
        return interval_of_draws(self.value, self.draws, len(np.unique(self.patients)))

    def less(self, other: "Bootstrap") -> Interval:
        """Return the paired difference to another AUROC of the same images and seed."""
        draws = self.draws - other.draws
        return interval_of_draws(self.value - other.value, draws, len(np.unique(self.patients)))


def auroc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Return the area under the ROC curve over images; NaN if a class is missing.

    The result equals scikit-learn's `roc_auc_score` bit for bit. A site computes it in each round in a new process, and
    importing scikit-learn takes longer than the rest of our work in a round.

    Args:
        positive: Truth per image, N.
        scores: Probability or any increasing score of the positive class, N.

    Raises:
        ModelError: A score is not finite.

    Source: eq. (15), Inbaraj et al. 2025, as implemented in scikit-learn.
    """
    if positive.all() or not positive.any():
        return float("nan")
    if not np.isfinite(scores).all():
        raise ModelError("the model gives scores that are not finite: check model.weights, or lower train.lr.")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # ends of runs of equal scores
    hits = np.cumsum(positive[order], dtype=np.float64)[ends]
    alarms = 1.0 + ends - hits
    if len(ends) > 2:  # scikit-learn leaves out points on straight lines, which changes the last bits of the sum
        corner = np.concatenate([[True], (np.diff(alarms, 2) != 0) | (np.diff(hits, 2) != 0), [True]])
        hits, alarms = hits[corner], alarms[corner]
    across, up = np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])
    return float((np.diff(across) * (up[1:] + up[:-1]) / 2.0).sum())


def auroc_interval(positive: npt.NDArray[np.bool_], scores: Floats, patients: Ints, *, seed: int) -> Interval:
    """Return the AUROC over images with a 95 % percentile bootstrap interval over patients.

    Args:
        positive: Truth per image, N.
        scores: Probability or any increasing score of the positive class, N.
        patients: Number of each image's patient, N; patients are resampled, not images.
        seed: Seed of the bootstrap.
    """
    return bootstrap_auroc(positive, scores, patients, seed=seed).interval


def paired_difference(
    positive: npt.NDArray[np.bool_], scores: Floats, baseline: Floats, patients: Ints, *, seed: int
) -> Interval:
    """Return the AUROC of `scores` minus that of `baseline`, bootstrapped over the same patients.

    Args:
        positive: Truth per image, N.
        scores: Score of the positive class, N.
        baseline: Another score of the same images, N.
        patients: Number of each image's patient, N.
        seed: Seed of the bootstrap.
    """
    one, other = (bootstrap_auroc(positive, found, patients, seed=seed) for found in (scores, baseline))
    return one.less(other)


def bootstrap_auroc(positive: npt.NDArray[np.bool_], scores: Floats, patients: Ints, *, seed: int) -> Bootstrap:
    """Return the resamples behind `auroc_interval` and `paired_difference`, to compare many scores of the same images.

    Args:
        positive: Truth per image, N.
        scores: Score of the positive class, N.
        patients: Number of each image's patient, N.
        seed: Seed of the bootstrap.
    """
    return Bootstrap(auroc(positive, scores), _auroc_draws(positive, scores, patients, seed), patients)


def interval_of_draws(value: float, draws: Floats, patients: int) -> Interval:
    """Return a figure with the 95 % percentile interval of its resamples.

    Args:
        value: The figure.
        draws: Its values in R resamples.
        patients: Number of patients; with fewer than ten the ends are NaN.
    """
    if patients < _FEWEST_PATIENTS or np.isnan(draws).mean() > 0.1:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def sensitivity_at(positive: npt.NDArray[np.bool_], scores: Floats, *, specificity: float) -> float:
    """Return the highest sensitivity of a threshold with at least this specificity; NaN without a class.

    A score equal to the threshold or higher counts as positive.

    Args:
        positive: Truth per image, N.
        scores: Score of the positive class, N.
        specificity: In [0, 1].
    """
    up, down = scores[positive], np.sort(scores[~positive])
    if not len(up) or not len(down):
        return float("nan")
    alarms = int(np.floor((1 - specificity) * len(down) + 1e-9))
    if alarms >= len(down):
        return 1.0
    return float(np.mean(up > down[len(down) - alarms - 1]))


def log_loss_by_patient(labels: Ints, log_probabilities: Floats, patients: Ints) -> Floats:
    """Return the mean log-loss of each patient's images, in the order of the patients' numbers.

    Args:
        labels: Class index per image, N.
        log_probabilities: N K.
        patients: Number of each image's patient, N.
    """
    losses = -log_probabilities[np.arange(len(labels)), labels]
    _, index = np.unique(patients, return_inverse=True)
    return np.bincount(index, weights=losses) / np.bincount(index)


def weighted_auroc(positive: npt.NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the AUROC for each of R sets of image weights; NaN without a pair.

    It is the weighted share of pairs that are ranked in the right order, with ties as one half.

    Args:
        positive: Truth per image, N.
        scores: N.
        weights: N R. Whole numbers repeat images; then only the result is rounded.
    """
    order = np.argsort(scores[~positive], kind="stable")
    below = np.zeros((len(order) + 1, weights.shape[1]))  # total weight of the lowest negatives
    np.cumsum(weights[~positive][order], axis=0, out=below[1:])
    up, negatives = weights[positive], scores[~positive][order]
    first, last = (np.searchsorted(negatives, scores[positive], side=side) for side in ("left", "right"))
    tied = first != last
    right = np.einsum("nr,nr->r", up, below[first])
    right += np.einsum("nr,nr->r", up[tied], (below[last[tied]] - below[first[tied]]) / 2)
    pairs = up.sum(axis=0) * below[-1]
    return np.asarray(np.divide(right, pairs, out=np.full(len(right), np.nan), where=pairs > 0), np.float64)


def _auroc_draws(positive: npt.NDArray[np.bool_], scores: Floats, patients: Ints, seed: int) -> Floats:
    """Return the AUROC of each bootstrap resample, R; NaN for a resample without a class."""
    return weighted_auroc(positive, scores, resample_of_seed(patients, seed))


def resample_patients(patients: Ints, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Return how often each image counts in each bootstrap resample of its patients, N R.

    Args:
        patients: Number of each image's patient, N.
        rng: Draws the resamples.
        resamples: R.
    """
    names, index = np.unique(patients, return_inverse=True)
    return np.asarray(_counts(len(names), rng, resamples).T[index], np.float64)


def resample_of_seed(patients: Ints, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Return `resample_patients` with the draws of a seed, which many figures of the same patients share.

    Args:
        patients: Number of each image's patient, N.
        seed: Of the draws.
        resamples: R.
    """
    names, index = np.unique(patients, return_inverse=True)
    return np.asarray(_counts_of_seed(len(names), seed, resamples).T[index], np.float64)


@functools.lru_cache(maxsize=4)
def _counts_of_seed(patients: int, seed: int, resamples: int) -> Ints:
    return _counts(patients, np.random.default_rng(seed), resamples)


def _counts(patients: int, rng: np.random.Generator, resamples: int) -> Ints:
    """Return how often each patient is drawn in each resample, R by patients."""
    return rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
