"""Model selection: the pool, unless validation patients are predicted better by the own model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["FEWEST_PATIENTS", "JOINT", "OWN", "POOL", "Selection", "select_model"]

OWN, JOINT, POOL = "own", "joint", "pool"
FEWEST_PATIENTS = 20
"""With fewer validation patients there is no comparison."""


@dataclass(frozen=True)
class Selection:
    """The model that a site uses, and the comparison behind it.

    Attributes:
        chosen: ``pool``, ``own`` or ``joint``.
        losses: Mean validation log-loss over patients, per candidate; empty without validation patients.
        excess: Log-loss of the pool minus that of the own model, in standard errors of the paired difference; None if
            they were not compared.
    """

    chosen: str
    losses: Mapping[str, float]
    excess: float | None = None


def select_model(losses: Mapping[str, npt.NDArray[np.float64]], *, standard_errors: float | None) -> Selection:
    """Use the pool, unless the own model is better by `standard_errors` on at least 20 validation patients.

    Fewer patients cannot separate a good pool from a bad one, so they are not used. A site without a pool uses its only
    model.

    Args:
        losses: Candidate to log-loss per validation patient, P, the same patients in the same order.
        standard_errors: Of the paired difference in log-loss; None: the pool is used in any case.
    """
    means = {name: float(values.mean()) for name, values in losses.items() if len(values)}
    if POOL not in losses:
        return Selection(next(iter(losses)), means)
    if OWN not in losses or standard_errors is None or len(losses[POOL]) < FEWEST_PATIENTS:
        return Selection(POOL, means)
    excess = _excess(losses[POOL] - losses[OWN])
    return Selection(OWN if excess >= standard_errors and excess > 0 else POOL, means, excess)


def _excess(difference: npt.NDArray[np.float64]) -> float:
    """Return the mean divided by its standard error; 0 if both are 0."""
    mean = float(difference.mean())
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    return mean / error if error > 0 else float(np.sign(mean) * np.inf) if mean else 0.0
