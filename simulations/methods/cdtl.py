"""CDTL: each modality has a model of its own, and a blend matrix lets something of each cross into the others."""

from typing import Literal

from simulations.methods.method import Method
from simulations.methods.track import Track, coordinated

__all__ = ["cdtl"]


def cdtl(policy: Literal["fixed", "retention", "annealed"] | None = None) -> Method[Track]:
    """The product's own method; `model_of` is the blended model, before the acceptance gate.

    Args:
        policy: Of the blend; None leaves the configuration's.

    Source: eq. (10), Inbaraj et al. 2025.
    """
    return coordinated({"method": "cdtl", "blend": {"policy": policy} if policy else {}})
