"""The acceptance gate: on validation patients, is a federation's model clearly better than the site's own?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ALONE", "BLENDED", "GateDecision", "choose_model"]

ALONE, BLENDED = "alone", "blended"
_FEWEST_PATIENTS = 3


@dataclass(frozen=True)
class GateDecision:
    """Which model the site uses, and what it was measured against.

    Attributes:
        chosen: ``blended``, ``unblended`` (the modality's own model before the last blend) or ``alone``.
        losses: Mean validation log-loss over patients, per candidate.
        excess: For each alternative, the blended model's loss less its own, in standard errors.
    """

    chosen: str
    losses: Mapping[str, float]
    excess: Mapping[str, float]

    @property
    def accepted(self) -> bool | None:
        """Whether the blended model is the one used; None if there was nothing to use or compare in its place."""
        return self.chosen == BLENDED if self.excess or self.chosen != BLENDED else None


def choose_model(losses: Mapping[str, npt.NDArray[np.float64]], *, standard_errors: float | None) -> GateDecision:
    """Use the model trained alone unless another beats it by more than `standard_errors` of the paired difference.

    Of several that do the one with the least loss is used. A site without a model of its own uses the blended one,
    unless the unblended one beats it likewise.

    Args:
        losses: Candidate to log-loss per validation patient, P, the same patients in the same order; must hold
            ``blended``.
        standard_errors: How clear a difference must be; None: the blended model is used whatever it is like.

    With fewer than three validation patients there is no comparison: nothing shows that the blend does no harm, and the
    model trained alone is used, where the site has one.
    """
    if standard_errors is None:
        return _decision(BLENDED, losses)
    if len(losses[BLENDED]) < _FEWEST_PATIENTS:
        chosen = ALONE if ALONE in losses else BLENDED
        return GateDecision(chosen, {name: float(losses[name].mean()) for name in dict.fromkeys((BLENDED, chosen))}, {})
    kept = ALONE if ALONE in losses else BLENDED
    better = [name for name, values in losses.items() if _excess(losses[kept] - values) > standard_errors]
    return _decision(min(better, key=lambda name: float(losses[name].mean()), default=kept), losses)


def _decision(chosen: str, losses: Mapping[str, npt.NDArray[np.float64]]) -> GateDecision:
    means = {name: float(values.mean()) for name, values in losses.items()}
    excess = {name: _excess(losses[BLENDED] - values) for name, values in losses.items() if name != BLENDED}
    return GateDecision(chosen, means, excess)


def _excess(difference: npt.NDArray[np.float64]) -> float:
    """Mean over its standard error; 0 where both are 0."""
    mean = float(difference.mean())
    error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0
    return mean / error if error > 0 else float(np.sign(mean) * np.inf) if mean else 0.0
