"""CDTL: each modality has a model of its own, and a blend matrix lets something of each cross into the others."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from cdtl_core.federation.coordinator import step
from cdtl_core.learning.weights import Weights, to_half
from simulations.methods.method import Federation, Method
from simulations.methods.track import Track, advance, begin, coordinated, outcome_of, train_sites

__all__ = ["Gated", "Policy", "cdtl", "cdtl_gated", "crossed", "settings_of", "unblended_round"]

Policy = Literal["fixed", "retention", "annealed", "scarce"]


@dataclass(frozen=True)
class Gated:
    """A run of CDTL and one of training alone, for the gate to choose between."""

    cdtl: Track
    alone: Track


def cdtl(policy: Policy | None = None) -> Method[Track]:
    """The product's own method; `model_of` is the blended model, before the acceptance gate.

    Args:
        policy: Of the blend; None leaves the configuration's.

    Source: eq. (10), Inbaraj et al. 2025.
    """
    return coordinated(settings_of(policy))


def cdtl_gated(policy: Policy | None = None) -> Method[Gated]:
    """CDTL as a site uses it: blended, unblended or trained alone, as its validation patients say."""
    own = {"method": "alone"}

    def start(federation: Federation) -> Gated:
        return Gated(begin(federation.under(settings_of(policy))), begin(federation.under(own)))

    def round(federation: Federation, state: Gated) -> Gated:
        cdtl_track = advance(federation.under(settings_of(policy)), state.cdtl)
        return Gated(cdtl_track, advance(federation.under(own), state.alone))

    def model_of(federation: Federation, state: Gated, site: str) -> Weights:
        alone = outcome_of(federation.under(own), state.alone, site).weights
        return outcome_of(federation.under(settings_of(policy)), state.cdtl, site, alone).weights

    return Method(start, round, model_of)


def settings_of(policy: Policy | None) -> dict[str, Any]:
    """What a run of CDTL with this policy changes in a configuration."""
    return {"method": "cdtl", "blend": {"policy": policy} if policy else {}}


def unblended_round(federation: Federation, track: Track) -> Track:
    """A round of CDTL up to its blend: each modality's mean applied, nothing crossed; for blends of another making."""
    memories, updates = train_sites(federation, track)
    nothing: dict[str, tuple[str, ...]] = dict.fromkeys(track.server.drifts, ())
    server, _ = step(track.server, updates, federation.under({"blend": {"donors": nothing, "policy": "fixed"}}).config)
    return Track(server, memories)


def crossed(track: Track, drifts: Mapping[str, Weights]) -> Track:
    """The same with drifts that a blend has made of its own, on the grid of float16."""
    return replace(track, server=replace(track.server, drifts={group: to_half(d) for group, d in drifts.items()}))
