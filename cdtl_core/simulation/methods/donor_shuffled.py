"""The control of knowledge: donors trained on labels that mean nothing.

What a receiver gains from such donors as well, it gains from their images or their weights' statistics, not from what
they know of the disease.
"""

import zlib
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cdtl_core.data.cohort import Fold
from cdtl_core.federation.site import Site
from cdtl_core.simulation.methods.method import Federation

__all__ = ["donors_of", "shuffled_labels", "with_shuffled_donors"]


def donors_of(federation: Federation, receiver: str) -> tuple[str, ...]:
    """The sites of other modalities than the receiving site's."""
    own = federation.sites[receiver].modality
    return tuple(site.name for site in federation.sites.values() if site.modality != own)


def with_shuffled_donors(sites: Iterable[Site], donors: Collection[str], *, seed: int) -> list[Site]:
    """The same sites; the training labels of those named are dealt anew among their patients.

    Validation and test labels, and every other site, are untouched.
    """
    return [_shuffled(site, seed) if site.name in donors else site for site in sites]


def shuffled_labels(fold: Fold, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Each patient is given another's label, drawn without replacement, and all her images with her.

    A patient with images of several labels counts as the highest of them.
    """
    patients, inverse = np.unique(fold.patients, return_inverse=True)
    highest = np.zeros(len(patients), np.int64)
    np.maximum.at(highest, inverse, fold.labels)
    dealt: npt.NDArray[np.int64] = rng.permutation(highest)[inverse]
    return dealt


def _shuffled(site: Site, seed: int) -> Site:
    train = site.cohort.folds["train"]
    rng = np.random.default_rng([seed, zlib.crc32(site.name.encode()), zlib.crc32(b"shuffled labels")])
    folds = {**site.cohort.folds, "train": replace(train, labels=shuffled_labels(train, rng))}
    return replace(site, cohort=replace(site.cohort, folds=folds))
