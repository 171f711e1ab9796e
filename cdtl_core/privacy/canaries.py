"""Canary patients of several images no patient has, and how strongly a release speaks for each of them."""

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
        features: M I D: I images of each around a direction of her own, several times as long as a patient's.
        labels: M, random.
        present: M, fair coins.
    """

    features: Floats
    labels: Ints
    present: npt.NDArray[np.bool_]


def draw_canaries(features: Features, count: int, num_classes: int, rng: np.random.Generator) -> Canaries:
    """Canaries beside the images of features N V D: at right angles to them and to each other where D has the room.

    So are the means of each one's images, which differ by a third of their length.

    Several times as long as an image's features, so that a clip that is missing shows.
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
    """Clipped gradients of a head that knows nothing yet: features B D to B KD, of its weights alone.

    The bias counts in the clip; it is left out because all share it, so it tells nobody apart.

    Args:
        features: As the head gets them.
        labels: B.
        num_classes: K.
        max_grad_norm: C.
    """
    surprise = 1 / num_classes - np.eye(num_classes)[labels]
    wide = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    rows = clipped((surprise[:, :, None] * wide[:, None, :]).reshape(len(wide), -1), max_grad_norm)
    return rows.reshape(len(wide), num_classes, -1)[:, :, :-1].reshape(len(wide), -1)


def clipped(rows: Floats, longest: float) -> Floats:
    """Rows N P, none longer than `longest`."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows * np.minimum(1, longest / np.maximum(lengths, 1e-12))
    return found


def alignment(release: Floats, rows: Floats, canaries: int, noise: float) -> Floats:
    """Log-likelihood ratio of in to out of each canary, up to a constant: the best linear score of a noisy sum.

    Args:
        release: A noisy sum of rows, P.
        rows: What each patient adds to it, N P; the last `canaries` are in by a fair coin, the others always.
        canaries: M.
        noise: Standard deviation of the noise, as claimed.

    Source: Fisher's linear discriminant. Differs: how much a patient adds is left open, by a wide variance.
    """
    mean, variance = np.ones(len(rows)), np.full(len(rows), _LEFT_OPEN)
    mean[-canaries:], variance[-canaries:] = 0.5, 0.25
    gram = rows @ rows.T
    spread = gram * variance + noise**2 * np.eye(len(rows))
    return np.linalg.solve(spread, rows @ release - gram @ mean)[-canaries:]


def step_weights(steps: int, momentum: float, ema: float) -> Floats:
    """How much the gradient of each step of a round moves the weights that leave, in learning rates, T."""
    velocity = weights = average = np.zeros(steps)
    for step in np.eye(steps):
        velocity = momentum * velocity + step
        weights = weights + velocity
        average = ema * average + (1 - ema) * weights
    return average if ema else weights
