"""What a site starts a round from: initial weights, plus the group's offset, with its own norms, centre and head.

The sites of a simulation share a process, and those of a group receive the same. Therefore the last sums are kept.
"""

import functools
from typing import TYPE_CHECKING

import torch

from cdtl_core.federation.contract import head_name
from cdtl_core.models.model import OF_HEAD, Parts, frozen_stages, parts_of
from cdtl_core.models.pieces import one_thread
from cdtl_core.models.weights import InMemory, Weights, check_shapes, load_into

if TYPE_CHECKING:
    from cdtl_core.federation.site import RoundOrder, Site, SiteMemory

__all__ = ["load", "load_round"]


def load_round(site: "Site", initial_weights: Weights, memory: "SiteMemory", order: "RoundOrder") -> Parts:
    """Load initial weights, offset and the site's local tensors into its model; return shared and local names.

    Args:
        site: The hospital.
        initial_weights: Of the federation.
        memory: Its local tensors.
        order: The server's order.

    Raises:
        ModelError: The weights do not fit the model.
    """
    return load(site, initial_weights, memory, order)[0]


@one_thread()  # to copy is to wait for memory
def load(site: "Site", initial_weights: Weights, memory: "SiteMemory", order: "RoundOrder") -> tuple[Parts, Weights]:
    """Load as `load_round` does; return also the shared tensors as loaded, which must not be written to."""
    parts = parts_of(site.model, freeze=frozen_stages(site.model, site.config), share_head=order.share_head)
    state, own = site.model.state_dict(), dict(memory.local or {})
    for name, value in state.items():
        if name.startswith((*OF_HEAD, "centre.")):
            own.setdefault(name, torch.zeros_like(value, device="cpu"))
    before = {**initial_weights, **own}
    names = {head_name(name, site.cohort.labels): name for name in parts.shared}
    check_shapes(state, {names[wire]: value for wire, value in order.offset.items() if wire in names})
    moved = _moved(InMemory(initial_weights), InMemory(order.offset))
    received = {}
    for wire, name in names.items():
        if name in own and wire in order.offset:
            received[name] = own[name] + order.offset[wire]
        else:
            received[name] = moved[name] if name in moved else before[name]
    load_into(site.model, {**before, **received})
    return parts, received


@functools.lru_cache(maxsize=2)  # of a modality and of a site's own model: a simulation's sites receive the same
def _moved(initial_weights: InMemory, offset: InMemory) -> Weights:
    """Return the tensors that both have, added: float32, in the layout of the initial weights."""
    found = {}
    for name, value in offset.weights.items():
        if name in initial_weights.weights:
            wide = torch.empty_like(initial_weights.weights[name]).copy_(value)
            found[name] = wide.add_(initial_weights.weights[name])
    return found
