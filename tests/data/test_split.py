"""Splits: by patient, stratified, seeded."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdtl_core.data.manifest import Case
from cdtl_core.data.split import split_patients
from cdtl_core.errors import DataError

LABELS = ("benign", "malignant")


def cases(benign: int, malignant: int, images: int = 2) -> list[Case]:
    return [
        Case(Path(f"{label}{i}-{k}.png"), label, f"p{label}{i}")
        for label, count in enumerate((benign, malignant))
        for i in range(count)
        for k in range(images)
    ]


@given(st.integers(3, 60), st.integers(3, 60), st.integers(0, 99), st.floats(0.1, 0.4), st.floats(0.1, 0.4))
def test_no_patient_is_in_two_splits_and_each_class_is_in_all_three(
    benign: int, malignant: int, seed: int, test: float, val: float
) -> None:
    found = cases(benign, malignant)
    split = split_patients(found, test=test, val=val, seed=seed, labels=LABELS)
    assert set(split) == {case.patient for case in found}
    for label in (0, 1):
        assert {split[case.patient] for case in found if case.label == label} == {"train", "val", "test"}


def test_shares_hold_within_each_class() -> None:
    split = split_patients(cases(100, 40), test=0.25, val=0.15, seed=0, labels=LABELS)
    for label, count in ((0, 100), (1, 40)):
        sizes = Counter(where for patient, where in split.items() if patient.startswith(f"p{label}"))
        assert (sizes["test"], sizes["val"]) == (round(0.25 * count), round(0.15 * count))


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    found = cases(30, 20)
    shuffled = random.Random(1).sample(found, len(found))
    one = split_patients(found, test=0.25, val=0.15, seed=0, labels=LABELS)
    assert split_patients(shuffled, test=0.25, val=0.15, seed=0, labels=LABELS) == one
    assert split_patients(found, test=0.25, val=0.15, seed=1, labels=LABELS) != one


def test_the_manifests_own_split_is_kept() -> None:
    found = [
        Case(case.file, case.label, case.patient, "test" if case.patient in {"p00", "p10"} else "")
        for case in cases(8, 8)
    ]
    split = split_patients(found, test=0.25, val=0.15, seed=0, labels=LABELS)
    assert split["p00"] == split["p10"] == "test"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (cases(10, 2), "'malignant' has no patient in the val split"),
        (cases(10, 0), "'malignant' has no patient"),
        ([Case(Path("x"), 0, "p", "holdout")], "has 'holdout'"),
        ([Case(Path("x"), 0, "p", "test"), Case(Path("y"), 0, "p", "train")], "two splits"),
    ],
)
def test_what_cannot_be_split_is_refused(found: list[Case], says: str) -> None:
    with pytest.raises(DataError, match=says):
        split_patients(found, test=0.25, val=0.15, seed=0, labels=LABELS)


@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 30), st.integers(0, 30))
def test_no_patient_moves_when_others_are_added_and_shares_still_hold(
    benign: int, malignant: int, more_benign: int, more_malignant: int
) -> None:
    first = split_patients(cases(benign, malignant), test=0.25, val=0.15, seed=0, labels=LABELS)
    grown = cases(benign + more_benign, malignant + more_malignant)
    second = split_patients(grown, test=0.25, val=0.15, seed=0, labels=LABELS, before=first)
    assert {patient: second[patient] for patient in first} == first
    for label, count in ((0, benign + more_benign), (1, malignant + more_malignant)):
        sizes = Counter(where for patient, where in second.items() if patient.startswith(f"p{label}"))
        assert abs(sizes["test"] - 0.25 * count) <= 1.6
        assert abs(sizes["val"] - 0.15 * count) <= 1.6


def test_patients_that_left_are_forgotten() -> None:
    before = {"gone": "test", **split_patients(cases(8, 8), test=0.25, val=0.15, seed=0, labels=LABELS)}
    assert "gone" not in split_patients(cases(8, 8), test=0.25, val=0.15, seed=0, labels=LABELS, before=before)  # type: ignore[arg-type]
