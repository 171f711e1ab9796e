"""Finds images that show the same thing: equal pixels, or thumbnails that correlate in outline and in detail.

All pairs are compared. The search works in the cohort's leading components. A projection only shortens distances, so no
pair above the bound is missed, and 100,000 images take minutes. Films of one kind resemble each other anyway (breasts
of two women reach 0.987), so a pair must also agree in its perceptual hash, and correlate after the cohort's own
leading components are removed.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.quality.sample import Floats, Sample, leading_axes, standard_thumbnails
from cdtl_core.system.progress import report

__all__ = ["CORRELATION", "Pair", "find_pairs"]

CORRELATION = 0.98
DETAIL = 0.55  # correlation of what the cohort's components leave; BUSI's copies 0.65 up, mini-MIAS' films below 0.47
HASH_BITS = 12  # of 64 that may differ; BUSI's copies 8 at most, smooth lesion crops that correlate 24 and more
COMPONENTS = 64
LEAST_REST = 20  # images needed to find what is common to the cohort
BASIS_FROM = 4000  # images
BLOCK = 2048
PARTNERS = 50  # per image: enough to connect a group
COPIES = 8  # of one exact image that take part in the search
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Pair:
    """Two samples, by index, that show the same image."""

    first: int
    second: int
    correlation: float
    exact: bool


@dataclass(frozen=True)
class _Basis:
    mean: Floats  # (D)
    components: Floats  # (K D), orthonormal

    def project(self, rows: Floats) -> Floats:
        points: Floats = ((rows - self.mean) @ self.components.T).astype(np.float32, copy=False)
        return points

    def rest(self, rows: Floats) -> Floats:
        """Return each row without its part along the components, scaled to length 1."""
        left = (rows - self.mean) - self.project(rows) @ self.components
        unit: Floats = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-6)
        return unit


def find_pairs(samples: Sequence[Sample]) -> tuple[Pair, ...]:
    """Return exact and near duplicates, by index; of many exact copies only some are paired."""
    copies: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        copies[sample.facts.pixels_sha256].append(index)
    kept = np.array(sorted(i for group in copies.values() for i in group[:COPIES]), np.intp)
    near = _near_pairs([samples[i] for i in kept])
    hashes = [sample.facts.pixels_sha256 for sample in samples]
    pairs = [Pair(int(kept[a]), int(kept[b]), value, hashes[kept[a]] == hashes[kept[b]]) for a, b, value in near]
    pairs += [Pair(group[0], late, 1.0, True) for group in copies.values() for late in group[COPIES:]]
    return tuple(sorted(pairs, key=lambda pair: (pair.first, pair.second)))


def _near_pairs(samples: Sequence[Sample]) -> list[tuple[int, int, float]]:
    if len(samples) < 2:
        return []
    basis = _basis(samples)
    first, second = _candidates(_projected(samples, basis))
    first, second, values = _correlated(samples, first, second)
    same = _similar_in_detail(samples, first, second)
    return [(int(a), int(b), float(v)) for a, b, v, good in zip(first, second, values, same, strict=True) if good]


def _basis(samples: Sequence[Sample]) -> _Basis:
    step = -(-len(samples) // BASIS_FROM)
    rows = standard_thumbnails(samples[::step])
    mean = rows.mean(axis=0)
    count = min(COMPONENTS, max(1, len(rows) // 2))
    return _Basis(mean, leading_axes([rows - mean], count).T)


def _projected(samples: Sequence[Sample], basis: _Basis) -> Floats:
    blocks = range(0, len(samples), BLOCK)
    return np.concatenate([basis.project(standard_thumbnails(samples[i : i + BLOCK])) for i in blocks])


def _candidates(points: Floats) -> tuple[Indices, Indices]:
    """Return pairs whose projected distance allows the correlation; at most PARTNERS later partners per image."""
    half = 0.5 * (points**2).sum(axis=1)
    bound = 1.0 - CORRELATION + 1e-4  # half the squared distance of two unit vectors is 1 - correlation
    found: list[tuple[Indices, Indices]] = []
    for top in range(0, len(points), BLOCK):
        partners = np.zeros(min(BLOCK, len(points) - top), np.intp)
        for left in range(top, len(points), BLOCK):
            ahead, behind = points[top : top + BLOCK], points[left : left + BLOCK]
            far = half[top : top + BLOCK, None] + half[None, left : left + BLOCK] - ahead @ behind.T
            rows, columns = np.nonzero(far <= bound)
            later = columns + left > rows + top
            rows, columns = rows[later], columns[later]
            rank = np.arange(len(rows)) - np.searchsorted(rows, rows) + partners[rows]
            rows, columns = rows[rank < PARTNERS], columns[rank < PARTNERS]
            partners += np.bincount(rows, minlength=len(partners))
            found.append((rows + top, columns + left))
        report(compared=min(top + BLOCK, len(points)), of=len(points))
    return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])


def _correlated(samples: Sequence[Sample], first: Indices, second: Indices) -> tuple[Indices, Indices, Floats]:
    values = np.zeros(len(first), np.float32)
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        values[part] = (_rows(samples, first[part]) * _rows(samples, second[part])).sum(axis=1)
    hashes = [sample.facts.perceptual_hash for sample in samples]
    apart = [(hashes[a] ^ hashes[b]).bit_count() for a, b in zip(first, second, strict=True)]
    good = (values > CORRELATION) & (np.array(apart, int) <= HASH_BITS)
    return first[good], second[good], values[good]


def _similar_in_detail(samples: Sequence[Sample], first: Indices, second: Indices) -> npt.NDArray[np.bool_]:
    paired = set(first.tolist()) | set(second.tolist())
    rest = [sample for index, sample in enumerate(samples) if index not in paired]
    good: npt.NDArray[np.bool_] = np.ones(len(first), bool)
    if len(rest) < LEAST_REST:
        return good
    basis = _basis(rest)  # from the others: a pair must not explain itself
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        ours, theirs = basis.rest(_rows(samples, first[part])), basis.rest(_rows(samples, second[part]))
        good[part] = (ours * theirs).sum(axis=1) > DETAIL
    pairs = zip(first, second, strict=True)
    good |= np.array([samples[a].facts.pixels_sha256 == samples[b].facts.pixels_sha256 for a, b in pairs], bool)
    return good


def _rows(samples: Sequence[Sample], indices: Indices) -> Floats:
    return standard_thumbnails([samples[i] for i in indices])
