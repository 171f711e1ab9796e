"""What a run's blends do to a modality over all rounds: how much of its own offset is left, and whose takes its place.

alpha compounds: with uniform donors the distance between two modalities' models shrinks each round by
``lambda = alpha - (1 - alpha) / (K - 1)``. `retention` turns (alpha, rounds) into the share of a modality's own offset
that is left at the end, and `alpha_of_retention` is its inverse. Pages and reports read this without torch.

Source: eq. (10), Inbaraj et al. 2025.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Matrix", "alpha_of_retention", "contraction", "retention", "retention_of", "retention_of_transfer"]
__all__ += ["transfer_of"]

Matrix = npt.NDArray[np.float64]


def contraction(alpha: float, modalities: int) -> float:
    """Return the factor lambda by which one blend with uniform donors shrinks the distance between modalities."""
    return alpha - (1 - alpha) / (modalities - 1) if modalities > 1 else 1.0


def retention(alpha: float, *, modalities: int, rounds: int) -> float:
    """Return the share of a modality's own offset after T blends: ``lambda (1 - lambda^T) / ((1 - lambda) T)``.

    Args:
        alpha: Own share in each blend.
        modalities: K.
        rounds: T.
    """
    return _rho(contraction(alpha, modalities), rounds)


def alpha_of_retention(rho: float, *, modalities: int, rounds: int) -> float:
    """Return the alpha whose `retention` is `rho`.

    Args:
        rho: In [0, 1].
        modalities: K.
        rounds: T.
    """
    if modalities == 1 or rho >= 1:
        return 1.0
    if rho <= 0:
        return 1 / modalities
    from scipy.optimize import brentq

    shrink = float(brentq(lambda x: _rho(x, rounds) - rho, 0.0, 1.0, xtol=1e-14))
    return (shrink * (modalities - 1) + 1) / modalities


def retention_of(matrices: Sequence[Matrix]) -> list[float]:
    """Return each modality's retention under the matrices of a whole run.

    With R of `transfer_of` the value is ``(K R_mm - 1) / (K - 1)``: 1 if nothing was shared, 0 for a uniform mixture,
    `retention` for uniform donors and equal alpha, negative for a modality that is replaced by its donors.
    """
    return retention_of_transfer(transfer_of(matrices))


def retention_of_transfer(transfer: Matrix) -> list[float]:
    """Return each modality's retention from the transfer over a whole run, K x K."""
    count = len(transfer)
    return [float((count * share - 1) / (count - 1)) if count > 1 else 1.0 for share in np.diag(transfer)]


def transfer_of(matrices: Sequence[Matrix]) -> Matrix:
    """Return the transfer over a whole run, K x K, rows sum to 1: ``R = mean over t of A_T ... A_t``.

    ``R[m, k]`` is the share of modality k's offsets in the final model of modality m, with equal offsets in every
    round.
    """
    count = len(matrices[0])
    mixture, total = np.eye(count), np.zeros((count, count))
    for matrix in reversed(matrices):
        mixture = mixture @ matrix
        total += mixture
    shares: Matrix = total / len(matrices)
    return shares


def _rho(shrink: float, rounds: int) -> float:
    return float(np.mean([shrink**power for power in range(1, rounds + 1)]))
