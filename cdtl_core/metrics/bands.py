"""ROC, precision-recall and reliability curves with pointwise 95 % bands over resampled patients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.metrics.metrics import Interval, resample_of_seed
from cdtl_core.metrics.operating import wilson

__all__ = ["Bin", "Curve", "average_precision", "average_precision_interval", "mean_interval", "precision_recall"]
__all__ += ["reliability", "roc"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_OnGrid = Callable[[Floats, Floats], Floats]
_RESAMPLES = 500
_BLOCK = 50
_FEWEST_PATIENTS = 10
_GRID = np.linspace(0.0, 1.0, 51)


@dataclass(frozen=True)
class Curve:
    """A curve, and its band on a grid; the band is None with fewer than ten patients.

    Attributes:
        x: Abscissae of the curve's corners.
        y: Ordinates of the curve's corners.
        grid: Abscissae of the band, G.
        at: The curve on the grid, G.
        band: Low and high, G each.
    """

    x: Floats
    y: Floats
    grid: Floats
    at: Floats
    band: tuple[Floats, Floats] | None


@dataclass(frozen=True)
class Bin:
    """Images with a probability in one tenth: mean probability, share of positives with its interval, counts."""

    low: float
    high: float
    mean: float
    observed: Interval
    images: int
    patients: int


def roc(positive: Bools, scores: Floats, patients: Ints, *, seed: int) -> Curve | None:
    """Return sensitivity over 1 - specificity; None if a class is missing.

    Args:
        positive: Truth per image, N.
        scores: Score of the positive class, N.
        patients: Number of each image's patient, N.
        seed: Seed of the bootstrap.
    """
    if positive.all() or not positive.any():
        return None
    hits, alarms = next(_counts(positive, scores, np.ones((1, len(scores)))))

    def on_grid(found: Floats, false: Floats) -> Floats:
        across, up = np.append(0.0, false / false[-1]), np.append(0.0, found / found[-1])
        return np.asarray(np.interp(_GRID, across, up), np.float64)

    x, y = np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])
    return Curve(x, y, _GRID, on_grid(hits, alarms), _band(positive, scores, patients, seed, on_grid))


def precision_recall(positive: Bools, scores: Floats, patients: Ints, *, seed: int) -> Curve | None:
    """Return precision over sensitivity; None without positives.

    Args:
        positive: Truth per image, N.
        scores: Score of the positive class, N.
        patients: Number of each image's patient, N.
        seed: Seed of the bootstrap.
    """
    if not positive.any() or positive.all():
        return None
    hits, alarms = next(_counts(positive, scores, np.ones((1, len(scores)))))

    def on_grid(found: Floats, false: Floats) -> Floats:
        first = np.searchsorted(found / found[-1], _GRID - 1e-12)
        called = found + false
        precision = np.divide(found, called, out=np.ones_like(found), where=called > 0)
        return np.asarray(precision[np.minimum(first, len(found) - 1)], np.float64)

    precision = hits / (hits + alarms)
    x, y = np.append(0.0, hits / hits[-1]), np.append(precision[0], precision)
    return Curve(x, y, _GRID, on_grid(hits, alarms), _band(positive, scores, patients, seed, on_grid))


def average_precision(positive: Bools, scores: Floats) -> float:
    """Return scikit-learn's `average_precision_score` without its slow import; NaN without positives."""
    if not positive.any():
        return float("nan")
    return _average_precision(*next(_counts(positive, scores, np.ones((1, len(scores))))))


def average_precision_interval(positive: Bools, scores: Floats, patients: Ints, *, seed: int) -> Interval:
    """Return average precision with a 95 % percentile bootstrap interval over patients; NaN as for AUROC.

    Args:
        positive: Truth per image, N.
        scores: Score of the positive class, N.
        patients: Number of each image's patient, N.
        seed: Seed of the bootstrap.
    """
    nan, value = float("nan"), average_precision(positive, scores)
    if not positive.any():
        return Interval(nan, nan, nan)
    draws = [_average_precision(*pair) for pair in _counts(positive, scores, _weights(patients, seed)) if pair[0][-1]]
    if len(np.unique(patients)) < _FEWEST_PATIENTS or len(draws) < 0.9 * _RESAMPLES:
        return Interval(value, nan, nan)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def mean_interval(values: Floats, patients: Ints, *, seed: int) -> Interval:
    """Return the mean over images with a 95 % percentile bootstrap interval over patients.

    The ends are NaN with fewer than ten patients.

    Args:
        values: One per image, N.
        patients: Number of each image's patient, N.
        seed: Seed of the bootstrap.
    """
    if len(np.unique(patients)) < _FEWEST_PATIENTS:
        return Interval(float(values.mean()), float("nan"), float("nan"))
    weights = _weights(patients, seed)
    low, high = np.quantile(weights @ values / weights.sum(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def reliability(positive: Bools, probability: Floats, patients: Ints, bins: int = 10) -> tuple[Bin, ...]:
    """Compare predicted probabilities with the share of positives in equal bins; empty bins are left out.

    Intervals are Wilson's with the number of patients, since images of one patient are not independent.

    Args:
        positive: Truth per image, N.
        probability: Of the positive class, N.
        patients: Number of each image's patient, N.
        bins: Number of bins.
    """
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    found = []
    for number in range(bins):
        mask = index == number
        if mask.any():
            count = len(np.unique(patients[mask]))
            observed = wilson(float(positive[mask].mean()), count)
            mean = float(probability[mask].mean())
            found.append(Bin(number / bins, (number + 1) / bins, mean, observed, int(mask.sum()), count))
    return tuple(found)


def _average_precision(hits: Floats, alarms: Floats) -> float:
    recall, called = hits / hits[-1], hits + alarms
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _band(positive: Bools, scores: Floats, patients: Ints, seed: int, on_grid: _OnGrid) -> tuple[Floats, Floats] | None:
    if len(np.unique(patients)) < _FEWEST_PATIENTS:
        return None
    pairs = _counts(positive, scores, _weights(patients, seed))
    draws = [on_grid(hits, alarms) for hits, alarms in pairs if hits[-1] and alarms[-1]]
    if len(draws) < 0.9 * _RESAMPLES:
        return None
    low, high = np.quantile(np.stack(draws), [0.025, 0.975], axis=0)
    return low, high


def _counts(positive: Bools, scores: Floats, weights: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Count positives and negatives with at least each distinct score, from the highest.

    Args:
        positive: Truth per image, N.
        scores: Score of the positive class, N.
        weights: One row per resample, R N.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    truth = positive[order].astype(np.float64)
    for first in range(0, len(weights), _BLOCK):
        block = weights[first : first + _BLOCK, order]
        hits, alarms = np.cumsum(block * truth, axis=1)[:, ends], np.cumsum(block * (1 - truth), axis=1)[:, ends]
        yield from zip(hits, alarms, strict=True)


def _weights(patients: Ints, seed: int) -> Floats:
    """Return how often each image is drawn in each resample of the patients, R N."""
    return resample_of_seed(patients, seed, _RESAMPLES).T
