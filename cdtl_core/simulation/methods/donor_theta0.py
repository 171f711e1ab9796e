"""The control that only regularises: in CDTL's cross term every donor is theta0.

What beats training alone with this control in place owes it to the pull towards theta0, not to another modality.
"""

from collections.abc import Mapping

import torch

from cdtl_core.federation.blend import Matrix, blend
from cdtl_core.federation.round import round_matrices
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.blended import Policy, blended, crossed, settings_of, unblended_round
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track

__all__ = ["blend_with_theta0", "cdtl_from_theta0"]


def cdtl_from_theta0(policy: Policy | None = None) -> Method[Track]:
    """Blending with the same matrices, but every donor's drift is zero.

    Differs: from CDTL also in that a mean is rounded to float16 before it is blended.
    """
    method = blended(policy)

    def round(federation: Federation, track: Track) -> Track:
        under = federation.under(settings_of(policy))
        after = unblended_round(under, track)
        matrix = round_matrices(after.server, under.config)[after.server.round - 1]
        return crossed(after, blend_with_theta0(after.server.drifts, matrix, depth=under.config.blend.depth))

    return Method(method.start, round, method.model_of)


def blend_with_theta0(drifts: Mapping[str, Weights], matrix: Matrix, *, depth: str = "none") -> dict[str, Weights]:
    """`blend` in which each row's donors hold what they hold, at theta0: drift zero."""
    nothing = {group: {name: torch.zeros_like(v) for name, v in drift.items()} for group, drift in drifts.items()}
    return {group: blend({**nothing, group: drift}, matrix, depth=depth)[group] for group, drift in drifts.items()}
