"""Repeated folds of a site's patients, and the scarce site: the same test patients with fewer training patients."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cdtl_core.data.cohort import Cohort, Fold
from cdtl_core.data.split import SPLITS
from cdtl_core.errors import DataError
from cdtl_core.federation.site import Site

__all__ = ["Deal", "deal_patients", "most_patients", "scarce_site", "whole_fold"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Deal:
    """A site's patients in one fold; each split is in an order whose every prefix is stratified."""

    train: Ints
    val: Ints
    test: Ints


def scarce_site(site: Site, *, seed: int, fold: int, folds: int, patients: int | None) -> Site:
    """Return the site with one fold's patients as its test split, and `patients` of the others for training.

    Fewer patients are a prefix of more patients with the same seed and fold. Validation patients are reduced in the
    same proportion, since a site with little training data has little validation data; they are never training
    patients.

    Args:
        site: The site.
        seed: Seed of the folds.
        fold: Index of the fold, from 0.
        folds: Number of folds.
        patients: Number of training patients; None: all.

    Raises:
        DataError: There are too few patients, or a class has none in a split.
    """
    whole = whole_fold(site.cohort)
    deal = deal_patients(whole, folds=folds, fold=fold, val=site.config.split.val, rng=_rng(site, seed))
    count = len(deal.train) if patients is None else patients
    if count > len(deal.train):
        raise DataError(
            f"site {site.name} has {len(deal.train)} training patients in fold {fold} of {folds}, and {count} are "
            "requested: request fewer."
        )
    val = _beginning(whole, deal.val, -(-count * len(deal.val) // max(len(deal.train), 1)))
    chosen = {"train": deal.train[:count], "val": val, "test": deal.test}
    cohort = replace(site.cohort, folds={split: _of_patients(whole, chosen[split]) for split in SPLITS})
    _check_classes(site.name, cohort, count)
    return replace(site, cohort=cohort)


def most_patients(site: Site, *, seed: int, fold: int, folds: int) -> int:
    """Return the largest number of training patients.

    Args:
        site: The site.
        seed: Seed of the folds.
        fold: Index of the fold, from 0.
        folds: Number of folds.
    """
    whole = whole_fold(site.cohort)
    return len(deal_patients(whole, folds=folds, fold=fold, val=site.config.split.val, rng=_rng(site, seed)).train)


def deal_patients(whole: Fold, *, folds: int, fold: int, val: float, rng: np.random.Generator) -> Deal:
    """Divide the patients of all images into one of `folds` test sets, and validation and training of the rest.

    Each stratum (the set of labels of a patient's images) is shuffled and dealt in turn, so that each fold has its
    share of the stratum within one patient. Over all folds every patient is tested once.

    Args:
        whole: All images.
        folds: Number of test sets.
        fold: Index of this test set, from 0.
        val: Share of all patients for validation, at least one of each stratum that has another one for training.
        rng: In the same state for every fold.
    """
    parts: dict[str, list[Ints]] = {split: [] for split in SPLITS}
    dealt = 0
    for stratum in _strata(whole):
        ranked = rng.permutation(stratum)
        is_test = (np.arange(len(ranked)) + dealt) % folds == fold
        dealt += len(ranked)
        rest = ranked[~is_test]
        kept = min(max(1, round(val * len(ranked))), max(len(rest) - 1, 0))
        for split, found in (("test", ranked[is_test]), ("train", rest[kept:]), ("val", rest[:kept])):
            parts[split].append(found)
    return Deal(*(_interleaved(parts[split]) for split in SPLITS))


def whole_fold(cohort: Cohort) -> Fold:
    """Return all units of a cohort as one fold, in the order of their first files."""
    folds = [cohort.folds[split] for split in SPLITS]
    names = ("rows", "labels", "patients", "identities", "lengths")
    whole = Fold(folds[0].pixels, *(np.concatenate([getattr(fold, name) for fold in folds]) for name in names))
    return whole.where(np.argsort(whole.rows[whole.starts]))


def _strata(whole: Fold) -> list[Ints]:
    """Group patients by the set of their labels; strata in the order of these sets."""
    labels: dict[int, set[int]] = {}
    for patient, label in zip(whole.patients.tolist(), whole.labels.tolist(), strict=True):
        labels.setdefault(patient, set()).add(label)
    kinds = sorted({tuple(sorted(found)) for found in labels.values()})
    return [np.array(sorted(p for p, found in labels.items() if tuple(sorted(found)) == kind)) for kind in kinds]


def _interleaved(strata: Sequence[Ints]) -> Ints:
    """Return all members, evenly spread: every prefix holds each stratum within one patient of its share."""
    places = np.concatenate([(np.arange(len(stratum)) + 0.5) / max(len(stratum), 1) for stratum in strata])
    everyone: Ints = np.concatenate(strata)[np.argsort(places, kind="stable")]
    return everyone


def _beginning(whole: Fold, patients: Ints, count: int) -> Ints:
    """Return the first `count` patients, or the smallest larger number with every label that all of them have."""
    wanted = set(_of_patients(whole, patients).labels.tolist())
    while count < len(patients) and set(_of_patients(whole, patients[:count]).labels.tolist()) != wanted:
        count += 1
    return patients[:count]


def _of_patients(whole: Fold, patients: Ints) -> Fold:
    return whole.where(np.isin(whole.patients, patients))


def _check_classes(name: str, cohort: Cohort, count: int) -> None:
    for split, fold in cohort.folds.items():
        absent = [label for index, label in enumerate(cohort.labels) if index not in fold.labels]
        if absent:
            raise DataError(
                f"with {count} training patients the class '{absent[0]}' of site {name} has no patient in the {split} "
                "split: use more patients or fewer folds."
            )


def _rng(site: Site, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(site.name.encode()), zlib.crc32(b"folds")])
