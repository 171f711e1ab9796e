"""Random numbers that privacy depends on: from the kernel's cryptographic generator, never from a seed.

Torch's CPU generator keeps only 32 bits of a seed, and torchcsprng, Opacus's secure generator, does not support current
torch versions. The kernel's generator is fast enough for the few parameters that are trained with privacy.
"""

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Entropy", "gaussian", "kernel_entropy", "unit"]

Entropy = Callable[[int], bytes]
"""From a number of bytes to that many unpredictable bytes."""

kernel_entropy: Entropy = os.urandom

_SUMMANDS = 4


def gaussian(like: torch.Tensor, std: float, entropy: Entropy) -> torch.Tensor:
    """Return normal noise in the shape of a tensor and on its device, float64.

    The noise is the sum of four draws, divided by two: the floating-point pattern of a single draw can reveal it.

    Args:
        like: Gives shape and device.
        std: Standard deviation.
        entropy: Source of random bytes.

    Source: Holohan, Braghin 2021, section 5.1, as in Opacus's secure mode.
    """
    if std == 0:
        return torch.zeros(like.shape, dtype=torch.float64, device=like.device)
    from scipy.special import ndtri  # takes a seventh of a second, and only private runs need it

    bits = np.frombuffer(entropy(8 * _SUMMANDS * like.numel()), np.uint8)
    draws = ndtri(unit(bits)).reshape(_SUMMANDS, *like.shape)
    return torch.from_numpy(draws.sum(axis=0) * (std / np.sqrt(_SUMMANDS))).to(like.device)


def unit(draws: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Turn bytes ... x 8N into numbers ... x N in (0, 1), both ends excluded.

    Each uses 52 bits: with 53, the half above the last would round to 1.
    """
    bits = draws.view(np.uint64) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52
