"""Where scores become decisions: a threshold chosen on validation patients, and the four counts it gives on others."""

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
    """A share of images with its 95 % interval; NaN where nothing was counted."""

    part: int
    whole: int
    interval: Interval


@dataclass(frozen=True)
class Confusion:
    """What a threshold does to a fold: images by truth and call; what scores the threshold or more is called positive.

    Attributes:
        hits: Positive, called positive.
        misses: Positive, called negative.
        alarms: Negative, called positive.
        rejects: Negative, called negative.
        sensitivity: hits of positives.
        specificity: rejects of negatives.
        precision: hits of those called positive.
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
    """The threshold with the largest sensitivity + specificity, halfway between two scores; None without both classes.

    Of several the one nearest to 0.5 is taken, so that few validation patients do not drive it to an end.

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
    """Count a fold's images at a threshold."""
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
    """The 95 % score interval of a share seen among `count` independent ones; NaN if there are none.

    Source: Wilson 1927.
    """
    if not count:
        return Interval(float("nan"), float("nan"), float("nan"))
    square = _Z**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z * np.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _share(what: Bools, among: Bools, patients: Ints) -> Share:
    """How often `what` holds among images; images of one patient are not independent, so patients are counted."""
    part, whole = int(np.sum(what & among)), int(np.sum(among))
    return Share(part, whole, wilson(part / whole if whole else float("nan"), len(np.unique(patients[among]))))
