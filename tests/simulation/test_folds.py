"""Folds of a comparison: test patients, and the reduction of training patients."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import device

from cdtl_core.config import RunConfig
from cdtl_core.data.cohort import Cohort, Fold
from cdtl_core.errors import DataError
from cdtl_core.federation.site import Site
from cdtl_core.models.model import Classifier
from cdtl_core.simulation.folds import most_patients, scarce_site, whole_fold

COUNTS = st.tuples(st.integers(24, 60), st.integers(24, 60), st.integers(0, 12))
DEALS: dict[str, Any] = {"counts": COUNTS, "folds": st.integers(2, 5), "seed": st.integers(0, 99)}


def site_of(benign: int, malignant: int, both: int = 0) -> Site:
    """Two images a patient; `both` patients have one of each label. Its own splits are by patient number."""
    pairs = [(0, 0)] * benign + [(1, 1)] * malignant + [(0, 1)] * both
    order = np.random.default_rng(5).permutation(len(pairs))
    labels, patients = np.array([pairs[i] for i in order]).ravel(), np.repeat(np.arange(len(pairs)), 2)
    pixels = np.zeros((len(labels), 1, 2, 2), np.uint8)
    rows = {name: np.flatnonzero(patients % 3 == part) for part, name in enumerate(("test", "train", "val"))}
    folds = {name: Fold(pixels, found, labels[found], patients[found]) for name, found in rows.items()}
    cohort = Cohort(("benign", "malignant"), folds, tuple(f"{i}.png" for i in range(len(labels))), 8)  # type: ignore[arg-type]
    model: Classifier = None  # type: ignore[assignment]
    return Site("alba", "ultrasound", 1, cohort, RunConfig(), model, device("cpu"))


def patients_of(site: Site, split: Any) -> set[int]:
    return set(site.cohort.folds[split].patients.tolist())


@given(**DEALS)
def test_every_patient_is_tested_once_per_seed_and_stands_in_one_split(
    counts: tuple[int, int, int], folds: int, seed: int
) -> None:
    site = site_of(*counts)
    tested: list[int] = []
    for fold in range(folds):
        found = scarce_site(site, seed=seed, fold=fold, folds=folds, patients=None)
        train, val, test = (patients_of(found, split) for split in ("train", "val", "test"))
        assert not train & val | train & test | val & test
        assert len(train | val | test) == sum(counts)
        assert sum(fold.num_images for fold in found.cohort.folds.values()) == 2 * sum(counts)
        tested += test
    assert sorted(tested) == list(range(sum(counts)))


@given(few=st.integers(8, 15), more=st.integers(2, 20), **DEALS)
def test_fewer_patients_are_a_beginning_of_more_and_test_patients_stay(
    few: int, more: int, counts: tuple[int, int, int], folds: int, seed: int
) -> None:
    site = site_of(*counts)
    most = most_patients(site, seed=seed, fold=1, folds=folds)
    sizes = [min(few, most), min(few + more, most), None]
    small, middle, whole = (scarce_site(site, seed=seed, fold=1, folds=folds, patients=n) for n in sizes)
    for split in ("train", "val"):
        assert patients_of(small, split) <= patients_of(middle, split) <= patients_of(whole, split)
    assert patients_of(small, "test") == patients_of(middle, "test") == patients_of(whole, "test")
    assert small.cohort.folds["train"].num_patients == sizes[0]
    assert not patients_of(small, "val") & patients_of(whole, "train")


@given(patients=st.integers(8, 15), **DEALS)
def test_each_label_has_its_share_of_every_test_set_and_of_every_beginning(
    patients: int, counts: tuple[int, int, int], folds: int, seed: int
) -> None:
    benign, malignant, _ = counts
    site = site_of(benign, malignant)
    for fold in range(folds):
        found = scarce_site(site, seed=seed, fold=fold, folds=folds, patients=None).cohort.folds
        for label, count in ((0, benign), (1, malignant)):
            assert abs((found["test"].labels == label).sum() / 2 - count / folds) < 1
        cut = scarce_site(site, seed=seed, fold=fold, folds=folds, patients=patients)
        share = (found["train"].labels == 0).mean()
        assert abs((cut.cohort.folds["train"].labels == 0).sum() / 2 - share * patients) <= 1


def test_a_site_with_little_to_train_on_has_little_to_validate_with() -> None:
    site = site_of(100, 100)
    whole = scarce_site(site, seed=0, fold=0, folds=5, patients=None).cohort.folds
    scarce = scarce_site(site, seed=0, fold=0, folds=5, patients=26).cohort.folds
    assert (whole["train"].num_patients, whole["val"].num_patients) == (130, 30)
    assert (scarce["train"].num_patients, scarce["val"].num_patients) == (26, 6)


def test_images_and_labels_stay_together_and_seeds_differ() -> None:
    site = site_of(20, 20, 4)
    before = whole_fold(site.cohort)
    assert before.rows.tolist() == list(range(88))
    found = scarce_site(site, seed=3, fold=0, folds=4, patients=10)
    for fold in found.cohort.folds.values():
        assert (fold.labels == before.labels[fold.rows]).all()
        assert (fold.patients == before.patients[fold.rows]).all()
        assert fold.pixels is before.pixels
    again, other = (scarce_site(site, seed=seed, fold=0, folds=4, patients=10) for seed in (3, 4))
    assert patients_of(again, "train") == patients_of(found, "train")
    assert patients_of(other, "test") != patients_of(found, "test")
    renamed = scarce_site(replace(site, name="bari"), seed=3, fold=0, folds=4, patients=10)
    assert patients_of(renamed, "test") != patients_of(found, "test")


@pytest.mark.parametrize(
    ("counts", "patients", "folds", "says"),
    [((10, 10), 99, 2, "99 are requested"), ((30, 3), 3, 2, "'malignant'"), ((30, 2), None, 3, "'malignant'")],
)
def test_what_cannot_be_cut_is_refused(counts: tuple[int, int], patients: int | None, folds: int, says: str) -> None:
    with pytest.raises(DataError, match=says):
        scarce_site(site_of(*counts), seed=0, fold=0, folds=folds, patients=patients)
