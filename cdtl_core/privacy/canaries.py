"""Canary patients with features that no real patient has, and scores for their presence in a release."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.training.features import Features

__all__ = ["Canaries", "alignment", "clipped", "draw_canaries", "gradient_rows", "step_weights"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_LENGTHS = 16.0
_IMAGES, _SPREAD = 3, 0.3
_LEFT_OPEN = 1e4


@dataclass(frozen=True)
class Canaries:
    """M canaries, present or not.

    Attributes:
        features: M I D: I images of each, around a separate direction, several times as long as a patient's features.
        labels: M, random.
        present: M, fair coins.
    """

    features: Floats
    labels: Ints
    present: npt.NDArray[np.bool_]


def draw_canaries(features: Features, count: int, num_classes: int, rng: np.random.Generator) -> Canaries:
    """Draw canaries for a cohort with features N V D.

    They are orthogonal to the cohort's features and to each other if D is large enough. The means of each canary's
    images are orthogonal too and differ in length by a third. They are several times as long as an image's features, so
    that a missing clip is visible.

    Args:
        features: Features of the cohort, N V D.
        count: M.
        num_classes: K.
        rng: The only source of randomness.
    """
    plain = features[:, 0].astype(np.float64)
    draws = rng.standard_normal((count, plain.shape[1]))
    if len(plain) + count <= plain.shape[1]:
        draws = np.linalg.qr(np.concatenate([plain, draws]).T).Q[:, len(plain) :].T
    length = _LENGTHS * float(np.median(np.linalg.norm(plain, axis=1)))
    found = draws / np.linalg.norm(draws, axis=1, keepdims=True) * length
    spread = rng.standard_normal((count, _IMAGES, plain.shape[1]))
    spread *= _SPREAD * length / np.linalg.norm(spread, axis=2, keepdims=True)
    images = found[:, None] + spread - spread.mean(axis=1, keepdims=True)
    return Canaries(images, rng.integers(num_classes, size=count), rng.random(count) < 0.5)


def gradient_rows(features: Floats, labels: Ints, num_classes: int, max_grad_norm: float) -> Floats:
    """Return clipped gradients of an untrained head with respect to its weights: features B D to B KD.

    The bias counts in the clip. It is left out of the rows because all patients share it, so it identifies none.

    Args:
        features: Input of the head.
        labels: B.
        num_classes: K.
        max_grad_norm: C.
    """
    surprise = 1 / num_classes - np.eye(num_classes)[labels]
    wide = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    rows = clipped((surprise[:, :, None] * wide[:, None, :]).reshape(len(wide), -1), max_grad_norm)
    return rows.reshape(len(wide), num_classes, -1)[:, :, :-1].reshape(len(wide), -1)


def clipped(rows: Floats, longest: float) -> Floats:
    """Return rows N P, none longer than `longest`."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows * np.minimum(1, longest / np.maximum(lengths, 1e-12))
    return found


def alignment(release: Floats, rows: Floats, canaries: int, noise: float) -> Floats:
    """Return each canary's log-likelihood ratio of in to out, up to a constant: the best linear score of a noisy sum.

    Args:
        release: A noisy sum of rows, P.
        rows: Contribution of each patient, N P; the last `canaries` are in by a fair coin, the others always.
        canaries: M.
        noise: Claimed standard deviation of the noise.

    Source: Fisher's linear discriminant. Differs: the size of a contribution is left open by a wide variance.
    """
    mean, variance = np.ones(len(rows)), np.full(len(rows), _LEFT_OPEN)
    mean[-canaries:], variance[-canaries:] = 0.5, 0.25
    gram = rows @ rows.T
    spread = gram * variance + noise**2 * np.eye(len(rows))
    return np.linalg.solve(spread, rows @ release - gram @ mean)[-canaries:]


def step_weights(steps: int, momentum: float, ema: float) -> Floats:
    """Return how much the gradient of each step of a round changes the released weights, in learning rates, T.

    Args:
        steps: T.
        momentum: Of the optimizer, in [0, 1).
        ema: Decay of the running mean of the weights; 0: none.
    """
    velocity = weights = average = np.zeros(steps)
    for step in np.eye(steps):
        velocity = momentum * velocity + step
        weights = weights + velocity
        average = ema * average + (1 - ema) * weights
    return average if ema else weights
