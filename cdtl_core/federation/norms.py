"""Norm and digest of an update."""

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from cdtl_core.models.compiled import Loops, squares_of
from cdtl_core.models.weights import Weights

__all__ = ["norm_and_digest", "norm_of"]

_STRIDE = 61
_Sample = tuple[bytes, npt.NDArray[np.generic]]
"""Name and shape of a tensor, and every 61st of its values."""


def norm_and_digest(delta: Weights, loops: Loops | None = None) -> tuple[float, str]:
    """Return the norm of an update as `norm_of` does, and 16 hex digits that identify it.

    The digest is a hash of the norm and of every 61st of the values. It detects a repeated old update. It cannot stop a
    site that changes one bit first: no digest could.
    """
    sample: list[_Sample] = []
    squares = squares_of(delta.values(), loops, beside=lambda: sample.extend(_sample(delta)))
    norm = math.sqrt(math.fsum(squares))
    return norm, _hashed(norm, sample)


def norm_of(delta: Weights, loops: Loops | None = None) -> float:
    """Return the Euclidean norm of an update over all its tensors; NaN or infinite if and only if one of its values is.

    Squares of float16 are summed in float32 within a piece, which they cannot exceed; pieces are summed exactly.

    Args:
        delta: The update.
        loops: Sum the squares, to the same bits; None: torch does.
    """
    return math.sqrt(math.fsum(squares_of(delta.values(), loops)))


def _sample(delta: Weights) -> list[_Sample]:
    return [
        (f"{name}/{tuple(delta[name].shape)}\n".encode(), delta[name].reshape(-1).numpy()[::_STRIDE].copy())
        for name in sorted(delta)
    ]


def _hashed(norm: float, sample: Iterable[_Sample]) -> str:
    digest = hashlib.sha256(repr(norm).encode())
    for head, values in sample:
        digest.update(head)
        digest.update(values.data)
    return digest.hexdigest()[:16]
