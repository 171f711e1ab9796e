"""Split into training, validation and test: by patient, stratified by label, seeded."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from cdtl_core.data.manifest import Case
from cdtl_core.errors import DataError

__all__ = ["SPLITS", "Split", "split_patients"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def split_patients(
    cases: Sequence[Case],
    *,
    test: float,
    val: float,
    seed: int,
    labels: Sequence[str],
    before: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Give each patient to one split; all images of a patient go together.

    The manifest's `split` column applies if it is filled, then the patient's split in `before`. Other patients are
    ranked within their stratum (the set of labels of their images) by a hash of seed and patient, so the order of rows
    does not matter. Each goes to the split that is furthest below its share of the stratum.

    Args:
        cases: All images of the site.
        before: The split of an earlier call, so that no patient moves when others are added.
        test: Share of each stratum's patients for the test split, in (0, 1).
        val: Share for validation, in (0, 1).
        seed: Chooses among the equally good splits.
        labels: The task's labels, for the error's text.

    Raises:
        DataError: A patient stands in two splits, or a class has no patient in a split.
    """
    chosen = _official(cases)
    strata: dict[frozenset[int], list[str]] = defaultdict(list)
    for patient, found in _labels_of_patients(cases).items():
        strata[found].append(patient)
    for stratum in strata.values():
        known = {p: where for p in stratum if (where := chosen.get(p) or (before or {}).get(p))}
        free = sorted((p for p in stratum if p not in known), key=lambda patient: _rank(seed, patient))
        official = all(patient in chosen for patient in known)
        chosen |= known
        chosen |= _cut(free, test, val) if official else _fill(free, Counter(known.values()), test, val)
    _check_classes(cases, chosen, labels)
    return chosen


def _cut(ranked: Sequence[str], test: float, val: float) -> dict[str, Split]:
    count = len(ranked)
    num_test = _part(test * count, most=count - 1)
    num_val = _part(val * count, most=count - num_test - 1)
    return {
        patient: "test" if i < num_test else "val" if i < num_test + num_val else "train"
        for i, patient in enumerate(ranked)
    }


def _fill(ranked: Sequence[str], counts: Counter[Split], test: float, val: float) -> dict[str, Split]:
    """Assign each patient in turn to the split that is furthest below its share."""
    shares: dict[Split, float] = {"train": 1 - test - val, "val": val, "test": test}
    filled: dict[str, Split] = {}
    for patient in ranked:
        total = counts.total() + 1
        short: Split = max(SPLITS, key=lambda name: shares[name] * total - counts[name])
        filled[patient] = short
        counts[short] += 1
    return filled


def _part(wanted: float, most: int) -> int:
    """Return at least one patient, unless that leaves none to train on."""
    return min(max(1, round(wanted)), max(most, 0))


def _labels_of_patients(cases: Sequence[Case]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for case in cases:
        found[case.patient].add(case.label)
    return {patient: frozenset(labels) for patient, labels in found.items()}


def _rank(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}/{patient}".encode()).digest()


def _official(cases: Sequence[Case]) -> dict[str, Split]:
    chosen: dict[str, Split] = {}
    names: dict[str, Split] = {name: name for name in SPLITS}
    for case in cases:
        if not case.split:
            continue
        if case.split not in names:
            raise DataError(
                f"the manifest's split column has '{case.split}': use train, val or test, or leave it empty."
            )
        if chosen.setdefault(case.patient, names[case.split]) != case.split:
            raise DataError("a patient has two splits in the manifest's split column: give each patient one split.")
    return chosen


def _check_classes(cases: Sequence[Case], chosen: dict[str, Split], labels: Sequence[str]) -> None:
    for split in SPLITS:
        present = {case.label for case in cases if chosen[case.patient] == split}
        for index, label in enumerate(labels):
            if index not in present:
                raise DataError(
                    f"the class '{label}' has no patient in the {split} split: "
                    f"each class needs patients for train, val and test; add patients or change the split."
                )
