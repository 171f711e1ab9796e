"""Finds images that look like negatives of the others (MONOCHROME1 shown as MONOCHROME2, scans of film negatives).

A linear model learns to distinguish the cohort's images from their own negatives by brightness, edges and leading
outlines. Images that it takes for negatives, in folds it did not learn from, are inverted, and it learns again. Every
feature changes its sign under inversion, so the model needs no labels and a minority of inverted films is found.
"""

from collections.abc import Sequence

import numpy as np

from cdtl_core.quality.sample import Floats, Sample, leading_axes, standard_thumbnails

__all__ = ["find_negatives"]

LEAST_IMAGES = 30
OUTLINES = 16
PASSES = 3
PENALTY = 0.03  # scikit-learn's C
MARGIN = 0.1  # of the median score: closer to 0 is undecided
UNDECIDED = 0.5  # of the median score
# share of images: BUSI 0.06, BUS-BRA 0.05, films of mini-MIAS 0.04; its lesion crops, like their negatives, 0.14
MOST_UNDECIDED = 0.11
BLOCK = 4096


def find_negatives(samples: Sequence[Sample]) -> tuple[int, ...]:
    """Return the indices of the images that look inverted, surest first; none if the cohort gives no answer."""
    if len(samples) < LEAST_IMAGES:
        return ()
    scores = _scores(_odd_features(samples))
    typical = float(np.median(np.abs(scores)))
    if np.mean(np.abs(scores) < UNDECIDED * typical) > MOST_UNDECIDED:
        return ()
    negative = np.flatnonzero(scores < -MARGIN * typical)
    return tuple(int(i) for i in negative[np.argsort(scores[negative])])


def _scores(features: Floats) -> Floats:
    from sklearn.linear_model import LogisticRegression  # takes a second: only for cohorts that are large enough
    from sklearn.model_selection import KFold

    signs = np.ones(len(features), np.float32)
    scores = np.zeros(len(features), np.float32)
    for _ in range(PASSES):
        for known, asked in KFold(5, shuffle=True, random_state=0).split(features):
            seen = features[known] * signs[known, None]
            spread = np.sqrt((seen**2).mean(axis=0)) + 0.02
            model = LogisticRegression(C=PENALTY, fit_intercept=False, max_iter=500)
            model.fit(np.vstack([seen, -seen]) / spread, np.repeat([1, -1], len(seen)))
            scores[asked] = features[asked] / spread @ model.coef_[0]
        turned = np.where(scores < 0, -1, 1).astype(np.float32)
        turned = turned if turned.mean() >= 0 else -turned  # the majority is right
        if np.array_equal(turned, signs):
            break
        signs = turned
    return scores


def _odd_features(samples: Sequence[Sample]) -> Floats:
    """Return features (N F) that change sign when an image is inverted, and do not change when it is mirrored."""
    shares = np.sqrt(np.stack([sample.facts.histogram for sample in samples]))
    edges = np.sort(np.array([sample.facts.edges[::2] for sample in samples], np.float32) / 255 - 0.5, axis=1)
    means = np.array([[sample.facts.mean / 127.5 - 1] for sample in samples], np.float32)
    skews = np.clip(np.array([sample.facts.skews for sample in samples], np.float32), -3, 3)
    half = shares.shape[1] // 2
    parts = [
        _outlines(samples),
        (shares - shares[:, ::-1])[:, :half],
        edges[:, :2] + edges[:, :1:-1],
        means,
        skews,
    ]
    return np.hstack(parts).astype(np.float32)


def _outlines(samples: Sequence[Sample]) -> Floats:
    """Project each thumbnail on the cohort's leading axes, which do not depend on the sign of any image."""
    blocks = [samples[i : i + BLOCK] for i in range(0, len(samples), BLOCK)]
    axes = leading_axes(map(standard_thumbnails, blocks), OUTLINES)
    return np.concatenate([standard_thumbnails(block) @ axes for block in blocks])
