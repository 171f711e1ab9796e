"""Control that only regularises: every donor in CDTL's cross term holds the initial weights.

A gain over local training with this control is due to the attraction to the initial weights, not to another modality.
"""

from collections.abc import Mapping

import torch

from cdtl_core.federation.blend import blend
from cdtl_core.federation.round import round_matrices
from cdtl_core.federation.transfer import Matrix
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.blended import Policy, blended, settings_of, unblended_round
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, with_offsets

__all__ = ["blend_with_initial_weights", "cdtl_from_initial_weights"]


def cdtl_from_initial_weights(policy: Policy | None = None) -> Method[Track]:
    """Return blending with the same matrices, but with zero offsets of every donor.

    Differs: from CDTL also in that a mean is rounded to float16 before it is blended.
    """
    method = blended(policy)

    def round(federation: Federation, track: Track) -> Track:
        under = federation.under(settings_of(policy))
        after = unblended_round(under, track)
        matrix = round_matrices(after.server, under.config)[after.server.round - 1]
        return with_offsets(
            after, blend_with_initial_weights(after.server.offsets, matrix, depth=under.config.blend.depth)
        )

    return Method(method.start, round, method.model_of)


def blend_with_initial_weights(
    offsets: Mapping[str, Weights], matrix: Matrix, *, depth: str = "none"
) -> dict[str, Weights]:
    """Return `blend` in which each row's donors keep their place but have offset zero.

    Args:
        offsets: Offsets by group.
        matrix: Blend matrix, K K.
        depth: Depth of the blend.
    """
    nothing = {group: {name: torch.zeros_like(v) for name, v in offset.items()} for group, offset in offsets.items()}
    return {group: blend({**nothing, group: offset}, matrix, depth=depth)[group] for group, offset in offsets.items()}
