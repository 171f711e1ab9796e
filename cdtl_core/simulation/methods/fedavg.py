"""FedAvg: every tensor is averaged over all sites, including norms and their statistics."""

from collections.abc import Mapping

import torch

from cdtl_core.federation.site import SiteMemory
from cdtl_core.models.model import OF_HEAD
from cdtl_core.models.weights import Weights, take
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, advance, begin, received

__all__ = ["fedavg", "share_norms"]

_SHARED = {"method": "fedbn"}


def fedavg() -> Method[Track]:
    """Return FedBN whose norms, affine parameters and running statistics, are also averaged after each round.

    It is the only method that a site evaluates with norms that are not its own, by definition.

    Source: McMahan et al. 2017, algorithm 1. Differs: every site takes part in every round with the same number of
    steps; sites weigh by patients.
    """

    def round(federation: Federation, track: Track) -> Track:
        shared = federation.under(_SHARED)
        after = advance(shared, track)
        cap = shared.config.federation.patient_cap
        weights = {m.site: min(m.num_patients, cap or m.num_patients) for m in after.server.members}
        return Track(after.server, share_norms(after.memories, weights))

    def model_of(federation: Federation, track: Track, site: str) -> Weights:
        received(federation.under(_SHARED), track, site)
        state = federation.sites[site].model.state_dict()
        names = [name for name, value in state.items() if value.is_floating_point()]
        return take(federation.sites[site].model, names)

    return Method(lambda federation: begin(federation.under(_SHARED)), round, model_of)


def share_norms(memories: Mapping[str, SiteMemory], weights: Mapping[str, int]) -> dict[str, SiteMemory]:
    """Return the sites' memories with every norm tensor replaced by the weighted mean over all sites; local heads stay.

    Args:
        memories: Site to its memory.
        weights: Site to its weight.
    """
    total = sum(weights[site] for site in memories)
    means: Weights = {}
    for site, memory in memories.items():
        for name, value in _norms(memory).items():
            part = value.double() * weights[site] / total
            means[name] = means[name] + part if name in means else part
    common = {name: value.to(torch.float32) for name, value in means.items()}
    return {site: SiteMemory(memory.round, {**(memory.local or {}), **common}) for site, memory in memories.items()}


def _norms(memory: SiteMemory) -> Weights:
    return {name: value for name, value in (memory.local or {}).items() if not name.startswith(OF_HEAD)}
