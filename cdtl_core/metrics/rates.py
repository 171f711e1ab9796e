"""Figures of a table of models with intervals over patients: rates at threshold 0.5, and AUROC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.metrics.metrics import Interval, interval_of_draws

__all__ = ["RATES", "Scored", "rates_of", "rates_with_intervals"]

Floats = npt.NDArray[np.float64]
RATES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auroc")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Scored:
    """Tested images: truth N, probability of the positive class N, number of each image's patient N."""

    positive: npt.NDArray[np.bool_]
    probability: Floats
    patients: npt.NDArray[np.int64]


def rates_of(scored: Scored, weights: Floats) -> dict[str, Floats]:
    """Return each of `RATES` for every row of weights over the images, R N; 0/0 is NaN.

    Source: eqs. (11)-(15), Inbaraj et al. 2025.
    """
    said, true = scored.probability >= 0.5, scored.positive
    hits, alarms = weights[:, said & true].sum(axis=1), weights[:, said & ~true].sum(axis=1)
    misses, rejects = weights[:, ~said & true].sum(axis=1), weights[:, ~said & ~true].sum(axis=1)
    return {
        "accuracy": _ratio(hits + rejects, hits + rejects + misses + alarms),
        "sensitivity": _ratio(hits, hits + misses),
        "specificity": _ratio(rejects, rejects + alarms),
        "precision": _ratio(hits, hits + alarms),
        "f1": _ratio(2 * hits, 2 * hits + misses + alarms),
        "auroc": _auroc(scored, weights),
    }


def rates_with_intervals(splits: Sequence[Scored], *, seed: int) -> dict[str, Interval]:
    """Return each of `RATES`, averaged over splits, with a 95 % bootstrap interval over patients.

    A resample draws patients of all splits together and is the same in each split, so a patient who is tested in
    several splits counts in all of them. The interval covers patients, for the given models.

    Args:
        splits: Tests of the same or of overlapping patients, with the same patient numbers.
        seed: Seed of the bootstrap.
    """
    patients = np.unique(np.concatenate([split.patients for split in splits]))
    counts = np.random.default_rng(seed).multinomial(
        len(patients), np.full(len(patients), 1 / len(patients)), size=_RESAMPLES
    )
    values = [rates_of(split, np.ones((1, len(split.patients)))) for split in splits]
    draws = [
        rates_of(split, counts[:, np.searchsorted(patients, split.patients)].astype(np.float64)) for split in splits
    ]
    return {name: interval_of_draws(float(_mean(values, name)[0]), _mean(draws, name), len(patients)) for name in RATES}


def _mean(found: Sequence[Mapping[str, Floats]], name: str) -> Floats:
    return np.asarray(np.mean([one[name] for one in found], axis=0))


def _auroc(scored: Scored, weights: Floats) -> Floats:
    """Return the weighted share of positive-negative pairs that are ranked in the right order; ties count half."""
    up, down = scored.probability[scored.positive], scored.probability[~scored.positive]
    ranked = (up[:, None] > down[None, :]) + 0.5 * (up[:, None] == down[None, :])
    of_up, of_down = weights[:, scored.positive], weights[:, ~scored.positive]
    return _ratio(((of_up @ ranked) * of_down).sum(axis=1), of_up.sum(axis=1) * of_down.sum(axis=1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0), np.float64)
