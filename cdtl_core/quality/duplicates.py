"""Rules about duplicate images."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from cdtl_core.quality.cohort import Cohort
from cdtl_core.quality.rule import Hit, Rule, count_of
from cdtl_core.quality.similarity import Pair

__all__ = ["RULES", "group_duplicates"]


def group_duplicates(size: int, pairs: Iterable[Pair]) -> npt.NDArray[np.int32]:
    """Return the group of each of `size` samples; samples connected by a chain of pairs share a number."""
    links = [(pair.first, pair.second) for pair in pairs]
    if not links:
        return np.arange(size, dtype=np.int32)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = np.array(links).T
    graph = coo_array((np.ones(len(links)), (first, second)), shape=(size, size))
    groups: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return groups


def _exact(cohort: Cohort) -> Iterator[Hit]:
    yield from _groups(cohort, [pair for pair in cohort.pairs if pair.exact], "have the same pixels")


def _near(cohort: Cohort) -> Iterator[Hit]:
    pairs = [pair for pair in cohort.pairs if not pair.exact and not _is_one_exam(cohort, pair)]
    yield from _groups(cohort, pairs, "look the same")


def _is_one_exam(cohort: Cohort, pair: Pair) -> bool:
    """Whether two images are of one exam, whose images may resemble each other."""
    first, second = (cohort.samples[index].entry for index in (pair.first, pair.second))
    return bool(first.exam) and (first.exam, first.owner) == (second.exam, second.owner)


def _groups(cohort: Cohort, pairs: list[Pair], what: str) -> Iterator[Hit]:
    """Return one hit for each group that spans patients, and one for all groups within a patient."""
    members: dict[int, list[int]] = defaultdict(list)
    involved = {index for pair in pairs for index in (pair.first, pair.second)}
    for index, group in enumerate(group_duplicates(len(cohort.samples), pairs)):
        if index in involved:
            members[int(group)].append(index)
    within = []
    for group in members.values():
        owners = {cohort.samples[i].owner for i in group}
        files = tuple(cohort.samples[i].file for i in group)
        if len(owners) == 1:
            within.append(files)
        else:
            yield Hit(f"{len(files)} images of {len(owners)} patients {what}.", files)
    if within:
        files = tuple(file for group in within for file in group)
        yield Hit(f"{len(files)} images {what} in {count_of(len(within), 'group')} of one patient each.", files)


def _opposite(cohort: Cohort) -> Iterator[Hit]:
    for pair in sorted(cohort.pairs, key=lambda pair: -pair.correlation):
        first, second = cohort.samples[pair.first], cohort.samples[pair.second]
        if first.entry.label != second.entry.label:
            how = "have the same pixels" if pair.exact else f"look the same (correlation {pair.correlation:.3f})"
            yield Hit(
                f"two images {how}, one is labelled '{first.entry.label}', the other '{second.entry.label}'.",
                (first.file, second.file),
            )


def _across_splits(cohort: Cohort) -> Iterator[Hit]:
    for pair in cohort.pairs:
        first, second = cohort.samples[pair.first], cohort.samples[pair.second]
        splits = {first.entry.split, second.entry.split} - {""}
        if len(splits) == 2:
            yield Hit(
                f"two images that show the same stand in {' and '.join(sorted(splits))}.", (first.file, second.file)
            )


RULES = (
    Rule(
        "opposite-labels",
        "error",
        "Two images show the same (same pixels, or thumbnails that correlate above 0.98 in outline and agree in "
        "detail) and have different labels: one is wrong.",
        "Check both at the source, correct the wrong label, and keep one of the two.",
        _opposite,
    ),
    Rule(
        "duplicate-across-splits",
        "error",
        "Two images that show the same are in different splits: the model would be tested on an image it was trained "
        "on.",
        "Keep one of the two, or give both one split.",
        _across_splits,
    ),
    Rule(
        "exact-duplicate",
        "warning",
        "Images decode to the same pixels, whatever their format.",
        "Keep one of each; if they are listed under several patients, find the right one.",
        _exact,
    ),
    Rule(
        "near-duplicate",
        "warning",
        "Thumbnails of two images correlate above 0.98 and still agree once the cohort's common look is taken out: "
        "frames of one sequence, the same view with and without callipers, a copy saved again.",
        "Give the images of one lesion one patient_id, so that a split keeps them together.",
        _near,
    ),
)
