"""Random numbers for one patient, as a function of a secret, the patient, the step and the purpose only.

Clipping bounds a patient's influence on the sum only if her presence changes nothing for other patients. Therefore no
generator is passed from one patient to the next: each patient has her own.
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
"""From purpose, step, identities of B patients and a number of bytes to random bytes, B x bytes."""

SECRET_BYTES = 32


def keyed_draws(secret: bytes) -> Draws:
    """Return draws keyed by a secret of this site: 32 new bytes of the kernel for each training.

    Args:
        secret: 32 bytes. A known secret weakens the Poisson sample; no secret makes a patient depend on another.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"the secret has {len(secret)} bytes: it must have {SECRET_BYTES}")

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
    """Return random whole numbers B x count, each below the patient's limit.

    Args:
        draws: Draws of the training.
        purpose: Distinguishes different uses in one step.
        step: Number of the step.
        identities: B patients.
        limits: Exclusive limits, B x 1, or one for all.
        count: Numbers per patient.
    """
    uniform = unit(draws(purpose, step, identities, 8 * count))
    return np.floor(uniform * limits).astype(np.int64)


def poisson(draws: Draws, purpose: str, step: int, identities: Ints, rate: float) -> Ints:
    """Return a Poisson sample: the rows of the patients that are drawn, each with probability `rate`.

    Args:
        draws: Draws of the training.
        purpose: Distinguishes different uses in one step.
        step: Number of the step.
        identities: All patients.
        rate: Probability of each patient, in [0, 1].
    """
    if rate >= 1:
        return np.arange(len(identities))
    return np.flatnonzero(unit(draws(purpose, step, identities, 8))[:, 0] < rate)


class PatientDropout(nn.Dropout):
    """Dropout with given masks; torch's own dropout draws one sequence for a whole batch.

    Attributes:
        masks: To multiply the features with; None: torch's dropout, as in runs without differential privacy.
    """

    masks: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Apply the masks; ... D to ... D."""
        return super().forward(input) if self.masks is None else input * self.masks


def dropout_masks(draws: Draws, step: int, identities: Ints, shape: tuple[int, ...], rate: float) -> torch.Tensor:
    """Return dropout masks B x shape: 0 with probability `rate`, else 1 / (1 - rate).

    Args:
        draws: Of the training.
        step: Of it.
        identities: B.
        shape: Of one patient's features.
        rate: In [0, 1).
    """
    bits = draws("dropout", step, identities, 4 * int(np.prod(shape))).view(np.uint32)
    return torch.from_numpy((bits >= rate * 2**32) / (1 - rate)).view(len(identities), *shape)
