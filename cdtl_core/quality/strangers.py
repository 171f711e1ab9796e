"""Finds images that are unlike the rest in texture, brightness, border and outline.

There are two measures, for two kinds of cohort. The distance to the k-th neighbour suits cohorts of several scanners,
each with its own look. The Mahalanobis distance from the cohort's core detects unusual combinations, and works if the
distances in the cohort have a short tail. Texture separates the modalities: speckle is rough at every octave, film is
smooth in the fine ones.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from cdtl_core.quality.sample import Floats, Sample, leading_axes, standard_thumbnails

__all__ = ["find_strangers"]

LEAST_IMAGES = 50
REFERENCE = 4000  # images that represent the cohort
LIMIT = 8.0  # robust deviations
BLOCK = 2048

NEIGHBOUR = 12
NEIGHBOUR_SHARE = 0.02  # so that a small group of strangers does not hide itself
FAR = 2.5  # times the distance to the k-th neighbour that 90 % of the images keep to

OUTLINES = (8, 32)  # leading components; the residual of a thumbnail is a feature
OUTLINE_WEIGHT = 4.0
CORE = 0.8  # share of the images used for mean and covariance
CORE_PASSES = 4
RIDGE = 0.1
OUT = 2.1  # times the distance from the core that 90 % of the images stay below
OUT_OF_TAIL = 1.5  # and times the distance that 98 % stay below


def find_strangers(samples: Sequence[Sample], inverted: Collection[int] = ()) -> tuple[int, ...]:
    """Return the indices of images that are unlike the cohort, strangest first; `inverted` images are turned back."""
    if len(samples) < LEAST_IMAGES:
        return ()
    looks, step = _looks(samples, inverted), -(-len(samples) // REFERENCE)
    points = _standard(looks)
    near = _to_neighbour(points, points[::step])
    points = _standard(np.hstack([looks, OUTLINE_WEIGHT * _unexplained(samples, step)]))
    core = _to_core(points, points[::step])
    score = np.maximum(
        near / (FAR * np.quantile(near, 0.9)),
        core / max(OUT * np.quantile(core, 0.9), OUT_OF_TAIL * np.quantile(core, 0.98)),
    )
    strange = np.flatnonzero(score > 1)
    return tuple(int(i) for i in strange[np.argsort(-score[strange])])


def _looks(samples: Sequence[Sample], inverted: Collection[int]) -> Floats:
    """Texture, details, brightness and quantiles (N F)."""
    facts = [sample.facts for sample in samples]
    turned = np.isin(np.arange(len(facts)), list(inverted))[:, None]
    shares = np.stack([one.histogram for one in facts])
    levels = np.cumsum(np.where(turned, shares[:, ::-1], shares), axis=1)
    quantiles = np.stack([(levels < share).sum(axis=1) / levels.shape[1] for share in (0.1, 0.5, 0.9)], axis=1)
    means = np.array([[one.border, one.mean] for one in facts]) / 255
    bright = np.hstack([np.where(turned, 1 - means, means), np.array([[one.std / 255] for one in facts])])
    texture = np.log(0.5 + np.array([one.textures for one in facts]))
    bands = np.log1p(np.array([one.bands for one in facts]))
    return np.hstack([texture, bands, bright, quantiles]).astype(np.float32)


def _unexplained(samples: Sequence[Sample], step: int) -> Floats:
    """Return the length (N 2) of each thumbnail's residual after the leading components, independent of its sign."""
    axes = leading_axes([standard_thumbnails(samples[::step])], max(OUTLINES))
    parts = []
    for rows in map(standard_thumbnails, _blocks(samples)):
        along = rows @ axes
        parts.append(np.stack([np.sqrt(np.clip(1 - (along[:, :n] ** 2).sum(axis=1), 0, 1)) for n in OUTLINES], axis=1))
    return np.concatenate(parts).astype(np.float32)


def _blocks(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    return (samples[i : i + BLOCK] for i in range(0, len(samples), BLOCK))


def _standard(features: Floats) -> Floats:
    centre = np.median(features, axis=0)
    spread = 1.4826 * np.median(np.abs(features - centre), axis=0) + 0.02
    standard: Floats = np.clip((features - centre) / spread, -LIMIT, LIMIT).astype(np.float32)
    return standard


def _to_neighbour(points: Floats, reference: Floats) -> npt.NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    rank = max(NEIGHBOUR, round(NEIGHBOUR_SHARE * len(reference)))
    blocks = (points[i : i + BLOCK] for i in range(0, len(points), BLOCK))
    return np.concatenate([np.partition(cdist(block, reference), rank, axis=1)[:, rank].copy() for block in blocks])


def _to_core(points: Floats, reference: Floats) -> npt.NDArray[np.float64]:
    """Return the Mahalanobis distance from the images nearest to the middle, found by concentration steps."""
    core = reference
    for _ in range(CORE_PASSES):
        middle = core.mean(axis=0)
        shape = np.linalg.inv(np.cov(core.T) + RIDGE * np.eye(core.shape[1]))
        away = _mahalanobis(reference, middle, shape)
        core = reference[away <= np.quantile(away, CORE)]
    return _mahalanobis(points, middle, shape)


def _mahalanobis(points: Floats, middle: Floats, shape: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    from_middle = points - middle
    distances: npt.NDArray[np.float64] = np.sqrt(
        np.einsum("ij,jk,ik->i", from_middle, shape, from_middle, optimize=True)
    )
    return distances
