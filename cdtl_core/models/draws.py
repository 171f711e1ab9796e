"""Random numbers for one patient: a function of a secret, the patient, the step and the purpose alone.

Clipping each patient's gradient bounds what she moves the sum by only if her presence changes nothing that another
patient is given. So no generator is passed from one patient to the next: each patient has her own.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cdtl_core.models.noise import unit

__all__ = [
    "SECRET_BYTES",
    "Bytes",
    "Draws",
    "Ints",
    "PatientDropout",
    "below",
    "dropout_masks",
    "keyed_draws",
    "poisson",
]

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Draws = Callable[[str, int, Ints, int], Bytes]
"""Purpose, step, identities of B patients, bytes for each of them to B x bytes."""

SECRET_BYTES = 32


def keyed_draws(secret: bytes) -> Draws:
    """Draws keyed by a secret that only this site has: 32 new bytes of the kernel for each training.

    Args:
        secret: 32 bytes. A known secret weakens the Poisson sample; no secret makes a patient depend on another.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret of {len(secret)} bytes, not of {SECRET_BYTES}")

    def draw(purpose: str, step: int, identities: Ints, count: int) -> Bytes:
        start = hashlib.shake_128(secret + f"{purpose}/{step}/".encode())
        found = np.empty((len(identities), count), np.uint8)
        for row, identity in enumerate(identities.tolist()):
            own = start.copy()
            own.update(identity.to_bytes(8, "little", signed=True))
            found[row] = np.frombuffer(own.digest(count), np.uint8)
        return found

    return draw


def below(draws: Draws, purpose: str, step: int, identities: Ints, limits: Ints | int, count: int = 1) -> Ints:
    """Whole numbers B x count, of each patient below her own limit (B x 1, or one for all)."""
    uniform = unit(draws(purpose, step, identities, 8 * count))
    return np.floor(uniform * limits).astype(np.int64)


def poisson(draws: Draws, purpose: str, step: int, identities: Ints, rate: float) -> Ints:
    """A Poisson sample: rows of those who are drawn, each on her own, with the chance `rate`."""
    if rate >= 1:
        return np.arange(len(identities))
    return np.flatnonzero(unit(draws(purpose, step, identities, 8))[:, 0] < rate)


class PatientDropout(nn.Dropout):
    """Dropout that takes the masks it is given: torch's own draws one sequence for a whole batch.

    Attributes:
        masks: To multiply the features with; None: torch's dropout, as in runs without differential privacy.
    """

    masks: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """... D to ... D."""
        return super().forward(input) if self.masks is None else input * self.masks


def dropout_masks(draws: Draws, step: int, identities: Ints, shape: tuple[int, ...], rate: float) -> torch.Tensor:
    """Masks B x shape, 0 with the chance `rate` and else 1 / (1 - rate).

    Args:
        draws: Of the training.
        step: Of it.
        identities: B.
        shape: Of one patient's features.
        rate: In [0, 1).
    """
    bits = draws("dropout", step, identities, 4 * int(np.prod(shape))).view(np.uint32)
    return torch.from_numpy((bits >= rate * 2**32) / (1 - rate)).view(len(identities), *shape)
