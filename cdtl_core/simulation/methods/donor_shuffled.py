"""Control of knowledge: donors trained on shuffled labels.

A gain that such donors also give comes from their images or the statistics of their weights, not from knowledge about
the disease.
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
    """Return the sites of other modalities than the receiver's."""
    own = federation.sites[receiver].modality
    return tuple(site.name for site in federation.sites.values() if site.modality != own)


def with_shuffled_donors(sites: Iterable[Site], donors: Collection[str], *, seed: int) -> list[Site]:
    """Return the sites; the training labels of the named ones are shuffled among their patients.

    Validation and test labels, and every other site, are unchanged.

    Args:
        sites: The sites of the federation.
        donors: Names of those that are shuffled.
        seed: Seed of the shuffle.
    """
    return [_shuffled(site, seed) if site.name in donors else site for site in sites]


def shuffled_labels(fold: Fold, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Give each patient with all her images the label of another, drawn without replacement.

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
