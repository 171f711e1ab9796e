"""Which images are unlike the rest: far from their neighbours in texture, brightness and border.

Texture tells the modalities apart: speckle is rough at every octave, film is smooth in the fine ones. The distance to
the k-th neighbour is robust to a cohort of several scanners, each with its own look.
"""

from collections.abc import Collection, Sequence

import numpy as np
from scipy.spatial.distance import cdist

from cdtl_core.imaging.lint.sample import Floats, Sample

__all__ = ["find_strangers"]

LEAST_IMAGES = 50
NEIGHBOUR = 12
NEIGHBOUR_SHARE = 0.02  # so that a small group of strangers cannot vouch for each other
REFERENCE = 4000  # images to compare with
FACTOR = 2.5  # times the distance that 90 % of the images keep to
LIMIT = 8.0  # robust deviations
BLOCK = 2048


def find_strangers(samples: Sequence[Sample], inverted: Collection[int] = ()) -> tuple[int, ...]:
    """Positions of the images that stand apart from the cohort, strangest first; `inverted` ones are turned back."""
    if len(samples) < LEAST_IMAGES:
        return ()
    points = _standard(_features(samples, inverted))
    reference = points[:: -(-len(points) // REFERENCE)]
    rank = max(NEIGHBOUR, round(NEIGHBOUR_SHARE * len(reference)))
    blocks = (points[i : i + BLOCK] for i in range(0, len(points), BLOCK))
    away = np.concatenate([np.partition(cdist(block, reference), rank, axis=1)[:, rank].copy() for block in blocks])
    strange = np.flatnonzero(away > FACTOR * np.quantile(away, 0.9))
    return tuple(int(i) for i in strange[np.argsort(-away[strange])])


def _features(samples: Sequence[Sample], inverted: Collection[int]) -> Floats:
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


def _standard(features: Floats) -> Floats:
    centre = np.median(features, axis=0)
    spread = 1.4826 * np.median(np.abs(features - centre), axis=0) + 0.02
    standard: Floats = np.clip((features - centre) / spread, -LIMIT, LIMIT).astype(np.float32)
    return standard
