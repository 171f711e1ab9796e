"""Bootstrap over receivers, then patients, then draws, for figures of several arms on the same patients.

A receiver's patients are resampled once for all arms and draws, so differences are paired. A replicate picks receivers,
for each of them one resample of its patients, and draws. Of S receivers it picks S - 1: with S, the interval for few
receivers that differ would be too narrow (tests/simulation/test_hierarchy.py).

Source: Davison and Hinkley 1997, section 3.8 (hierarchical data); Rao and Wu 1988 (one unit fewer).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.metrics.metrics import RESAMPLES, Interval, interval_of_draws, resample_patients

__all__ = ["Figure", "difference", "mean_difference", "p_value", "site_resamples"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
REPLICATES = 20_000
"""Large enough that Holm's correction of some hundred comparisons can still end below 0.05."""


@dataclass(frozen=True)
class Figure:
    """A figure of one arm at one receiver.

    Attributes:
        draws: In each draw, D.
        resampled: In each resample of the receiver's patients and each draw, R D.
        num_patients: Number of patients.
    """

    draws: Floats
    resampled: Floats
    num_patients: int

    def less(self, other: "Figure") -> "Figure":
        """Return the paired difference to another arm."""
        return Figure(self.draws - other.draws, self.resampled - other.resampled, self.num_patients)

    @property
    def value(self) -> float:
        """Mean over draws."""
        return float(self.draws.mean())


def site_resamples(name: str, patients: Ints, resamples: int = RESAMPLES) -> Floats:
    """Return how often each image counts in each resample of a site's patients, N R; the same for every arm.

    Args:
        name: The site's name: sites are resampled independently.
        patients: Number of each image's patient, N.
        resamples: R.
    """
    rng = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(b"patients")])
    return resample_patients(patients, rng, resamples)


def difference(found: Figure) -> Interval:
    """Return one receiver's mean over draws, with the interval over its patients and then draws."""
    rng = np.random.default_rng(zlib.crc32(b"draws"))
    picks = rng.integers(len(found.draws), size=found.resampled.shape)
    means = np.take_along_axis(found.resampled, picks, axis=1).mean(axis=1)
    return interval_of_draws(found.value, means, found.num_patients)


def mean_difference(found: Mapping[str, Figure], replicates: int = REPLICATES) -> tuple[Interval, float]:
    """Return the mean over receivers with its 95 % interval, and the two-sided p value of no difference.

    Args:
        found: Receiver to its figure, all with the same draws.
        replicates: Number of replicates of the bootstrap.
    """
    means = _replicates(list(found.values()), replicates)
    value = float(np.mean([one.value for one in found.values()]))
    interval = interval_of_draws(value, means, min(one.num_patients for one in found.values()))
    return interval, p_value(means) if np.isfinite(interval.low) else float("nan")


def _replicates(found: Sequence[Figure], replicates: int) -> Floats:
    """Return the mean difference in each replicate; NaN for a resample of patients without a class."""
    resampled = np.stack([one.resampled for one in found])  # S R D
    sites, resamples, draws = resampled.shape
    rng = np.random.default_rng([sites, zlib.crc32(b"receivers")])
    total = np.zeros(replicates)
    picked = max(sites - 1, 1)
    for _ in range(picked):
        receiver = rng.integers(sites, size=(replicates, 1))
        patients = rng.integers(resamples, size=(replicates, 1))
        total += resampled[receiver, patients, rng.integers(draws, size=(replicates, draws))].mean(axis=1)
    return np.asarray(total / picked, np.float64)


def p_value(means: Floats) -> float:
    """Return the two-sided p value from the share of replicates on the other side of 0; never 0."""
    known = means[np.isfinite(means)]
    tail = min(np.sum(known <= 0), np.sum(known >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(known) + 1)))
