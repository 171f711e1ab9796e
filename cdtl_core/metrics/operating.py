"""Operating point: a threshold chosen on validation patients, and its confusion matrix on other patients."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.metrics.metrics import Interval

__all__ = ["Confusion", "Share", "choose_threshold", "confusion_at", "wilson"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_Z = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A share of images with its 95 % interval; NaN if nothing was counted."""

    part: int
    whole: int
    interval: Interval


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of a threshold: images by truth and prediction; a score equal to it or higher is positive.

    Attributes:
        hits: Positive, predicted positive.
        misses: Positive, predicted negative.
        alarms: Negative, predicted positive.
        rejects: Negative, predicted negative.
        sensitivity: hits among positives.
        specificity: rejects among negatives.
        precision: hits among those predicted positive.
    """

    threshold: float
    hits: int
    misses: int
    alarms: int
    rejects: int
    sensitivity: Share
    specificity: Share
    precision: Share


def choose_threshold(positive: Bools, scores: Floats) -> float | None:
    """Return the threshold with the largest sensitivity + specificity, halfway between two scores; None without both.

    Of several such thresholds it returns the one nearest to 0.5, so that few validation patients do not push it to an
    end.

    Source: Youden 1950.
    """
    if positive.all() or not positive.any():
        return None
    values = np.unique(scores)
    between = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])
    called = scores[None, :] >= between[:, None]
    gain = called[:, positive].mean(axis=1) - called[:, ~positive].mean(axis=1)
    best = between[gain >= gain.max() - 1e-12]
    return float(best[np.argmin(np.round(np.abs(best - 0.5), 12))])


def confusion_at(positive: Bools, scores: Floats, patients: Ints, threshold: float) -> Confusion:
    """Count a fold's images at a threshold.

    Args:
        positive: Truth per image, N.
        scores: Score of the positive class, N.
        patients: Number of each image's patient, N.
        threshold: Scores equal to it or higher are positive.
    """
    said = scores >= threshold
    return Confusion(
        threshold,
        int(np.sum(said & positive)),
        int(np.sum(~said & positive)),
        int(np.sum(said & ~positive)),
        int(np.sum(~said & ~positive)),
        sensitivity=_share(said, positive, patients),
        specificity=_share(~said, ~positive, patients),
        precision=_share(positive, said, patients),
    )


def wilson(share: float, count: int) -> Interval:
    """Return the 95 % score interval of a share among `count` independent observations; NaN without any.

    Source: Wilson 1927.
    """
    if not count:
        return Interval(float("nan"), float("nan"), float("nan"))
    square = _Z**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z * np.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _share(what: Bools, among: Bools, patients: Ints) -> Share:
    """Return how often `what` holds among images, with an interval over patients, since images are not independent.

    Args:
        what: Per image, N.
        among: The images that count, N.
        patients: Number of each image's patient, N.
    """
    part, whole = int(np.sum(what & among)), int(np.sum(among))
    return Share(part, whole, wilson(part / whole if whole else float("nan"), len(np.unique(patients[among]))))
