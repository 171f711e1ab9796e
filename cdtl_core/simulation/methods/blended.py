"""Blending across modalities in every round: each modality has a model, and a matrix mixes them."""

from typing import Any, Literal

from cdtl_core.federation.round import step
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, coordinated, train_sites

__all__ = ["Policy", "blended", "settings_of", "unblended_round"]

Policy = Literal["fixed", "retention", "annealed", "scarce"]


def blended(policy: Policy | None = None) -> Method[Track]:
    """Return blending in every round, as the product did before it pooled; `model_of` is the blended model.

    Args:
        policy: Of the blend; None leaves the configuration's.

    Source: eq. (10), Inbaraj et al. 2025.
    """
    return coordinated(settings_of(policy))


def settings_of(policy: Policy | None) -> dict[str, Any]:
    """Return the settings that a run of CDTL with this policy changes."""
    return {"method": "cdtl", "blend": {"policy": policy} if policy else {}}


def unblended_round(federation: Federation, track: Track) -> Track:
    """Run a round of CDTL up to its blend: each modality's mean is applied, for methods with another blend."""
    memories, updates = train_sites(federation, track)
    nothing: dict[str, tuple[str, ...]] = dict.fromkeys(track.server.offsets, ())
    server, _ = step(track.server, updates, federation.under({"blend": {"donors": nothing, "policy": "fixed"}}).config)
    return Track(server, memories)
