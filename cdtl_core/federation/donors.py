"""The share of each donor: how much the other sites' models of each modality help a site's patients.

The pool has one share for all other sites together. Here each modality of other sites is a donor with a separate share,
fitted on the same evidence:

    logits = bias + scale * (own + sum over donors of r_d * donor_d)

Share 0 means that the donor does not help the site's patients, share 1 that it counts as much as the own model. The
rows of all sites form the transfer matrix. The shares are descriptive: the pool does not use them, and they stay at the
site.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cdtl_core.federation.pool import (
    FEWEST_PATIENTS,
    Floats,
    Ints,
    fit_shares,
    patient_weights,
    share_prior,
    standard_of,
)
from cdtl_core.metrics.metrics import resample_patients

__all__ = ["DonorShare", "donor_shares"]

_RESAMPLES = 200


@dataclass(frozen=True)
class DonorShare:
    """Share of the other sites of one modality, relative to the own model (1), with its 95 % interval."""

    modality: str
    value: float
    low: float
    high: float


def donor_shares(
    own: Floats, donors: Mapping[str, Floats], labels: Ints, patients: Ints, rng: np.random.Generator
) -> tuple[DonorShare, ...]:
    """Return the most probable share of each donor; empty with fewer than 20 patients, or with one class only.

    The prior of a single donor is the pool's. With more donors it is divided among them. The interval is that of 200
    bootstrap resamples of patients. Each resample also draws the means of the priors from the priors, so that an
    interval is never narrower than the knowledge: without evidence it is the prior's own.

    Args:
        own: Predictions of the own model for patients that it was not trained on, N K.
        donors: Modality to predictions of its model, N K, which was not trained on them either; a constant one is left
            out.
        labels: Class index, N.
        patients: Number of each image's patient, N.
        rng: Draws the resamples.
    """
    names = np.unique(patients)
    standards = {modality: standard_of(scores, patients) for modality, scores in donors.items()}
    told = {modality: one(donors[modality]) for modality, one in standards.items() if not one.is_flat}
    if len(names) < FEWEST_PATIENTS or len(np.unique(labels)) < 2 or not told:
        return ()
    unit, parts = standard_of(own, patients)(own), list(told.values())
    mean, variance = share_prior(len(parts), len(names))
    whole = len(names) * patient_weights(labels, patients)
    values = fit_shares(unit, parts, labels, whole, np.full(len(parts), mean), variance)
    draws = list[Floats]()
    while len(draws) < _RESAMPLES:
        counts = resample_patients(patients, rng, 1)[:, 0]
        if not all(counts[labels == label].any() for label in np.unique(labels)):
            continue
        weights = len(names) * patient_weights(labels, patients, counts)
        means = rng.normal(mean, np.sqrt(variance), len(parts))
        draws.append(fit_shares(unit, parts, labels, weights, means, variance))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    rows = zip(told, values, low, high, strict=True)
    return tuple(DonorShare(modality, *map(float, figures)) for modality, *figures in rows)
