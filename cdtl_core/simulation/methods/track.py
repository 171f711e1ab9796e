"""A federation in progress with the product's own server and sites, the basis of most methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from cdtl_core.errors import ConfigError
from cdtl_core.federation.contract import head_name
from cdtl_core.federation.finish import candidate
from cdtl_core.federation.received import load_round
from cdtl_core.federation.round import step
from cdtl_core.federation.site import RoundOrder, Site, SiteMemory, SiteUpdate, run_round
from cdtl_core.federation.state import CoordinatorState, Member, order_for, start
from cdtl_core.models.model import frozen_stages, parts_of
from cdtl_core.models.weights import Weights, take, to_half
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.training.objective import PLAIN, Objective

__all__ = ["ObjectiveOf", "Track", "advance", "begin", "coordinated", "deployed", "plain", "received"]
__all__ += ["order_of", "round_of", "train_sites", "with_offsets"]

ObjectiveOf = Callable[[str], Objective]


@dataclass(frozen=True)
class Track:
    """A run of the coordinator: its state, and each site's local tensors."""

    server: CoordinatorState
    memories: Mapping[str, SiteMemory]


def plain(_site: str) -> Objective:
    """Return the cross-entropy for every site."""
    return PLAIN


def begin(federation: Federation) -> Track:
    """Return the state before the first round."""
    server = start(federation.members, federation.config)
    return Track(server, dict.fromkeys(federation.sites, SiteMemory()))


def train_sites(
    federation: Federation, track: Track, objective_of: ObjectiveOf = plain
) -> tuple[dict[str, SiteMemory], list[SiteUpdate]]:
    """Run every site's part of a round; `objective_of` is called just before a site trains and may use its model.

    Args:
        federation: The federation.
        track: The state before the round.
        objective_of: Site to its objective.
    """
    memories, updates = {}, []
    for member in track.server.members:
        site, order = federation.sites[member.site], order_for(track.server, member, federation.config)
        before, objective = track.memories[member.site], objective_of(member.site)
        memories[member.site], update = round_of(federation, site, before, order, objective)
        updates.append(update)
    return memories, updates


def round_of(
    federation: Federation, site: Site, before: SiteMemory, order: RoundOrder, objective: Objective
) -> tuple[SiteMemory, SiteUpdate]:
    """Run a site's part of a round; the plain objective uses an earlier answer if there is one.

    Args:
        federation: The federation.
        site: The site.
        before: Its memory.
        order: The coordinator's order.
        objective: What is minimised.
    """
    if site.name in federation.still:
        return stay(site, federation.initial_weights, before, order)
    if objective is PLAIN:
        return federation.kept.round(site, federation.initial_weights, before, order)
    return run_round(site, federation.initial_weights, before, order, objective=objective)


def stay(site: Site, initial_weights: Weights, before: SiteMemory, order: RoundOrder) -> tuple[SiteMemory, SiteUpdate]:
    """Return the round of a site that answers with the initial weights: its update reverses all earlier movement.

    Args:
        site: The site.
        initial_weights: The common start.
        before: Its memory.
        order: The coordinator's order.
    """
    parts = load_round(site, initial_weights, before, order)
    received = {head_name(name, site.cohort.labels): name for name in parts.shared}
    state = site.model.state_dict()
    nothing = {wire: torch.zeros(state[name].shape, dtype=torch.float16) for wire, name in received.items()}
    delta = {wire: zero - order.offset[wire] if wire in order.offset else zero for wire, zero in nothing.items()}
    return SiteMemory(order.round, take(site.model, parts.local)), SiteUpdate(site.name, order.round, delta)


def advance(federation: Federation, track: Track, objective_of: ObjectiveOf = plain) -> Track:
    """Run one whole round: every site, then the server's step.

    Args:
        federation: The federation.
        track: The state before the round.
        objective_of: Site to its objective.
    """
    memories, updates = train_sites(federation, track, objective_of)
    server, _ = step(track.server, updates, federation.config)
    return Track(server, memories)


def with_offsets(track: Track, offsets: Mapping[str, Weights]) -> Track:
    """Return the run with other offsets at the server.

    Args:
        track: The run.
        offsets: By group of sites; rounded to float16 as in messages.

    Raises:
        ConfigError: A group is missing or unknown.
    """
    if wrong := sorted(offsets.keys() ^ track.server.offsets.keys()):
        groups = ", ".join(track.server.offsets)
        raise ConfigError(f"the offsets of '{wrong[0]}' are missing, or of no group: give those of {groups}.")
    return replace(track, server=replace(track.server, offsets={group: to_half(d) for group, d in offsets.items()}))


def received(federation: Federation, track: Track, site: str) -> Weights:
    """Return the trained tensors except norms, by their names in the model, as the site would start the next round.

    Args:
        federation: The federation.
        track: The state.
        site: The site.
    """
    here = federation.sites[site]
    load_round(here, federation.initial_weights, track.memories[site], order_of(federation, track, site))
    return take(here.model, parts_of(here.model, freeze=frozen_stages(here.model, here.config), share_head=True).shared)


def deployed(federation: Federation, track: Track, site: str) -> Weights:
    """Return the classifier that the site would use now, with its own norms.

    Args:
        federation: The federation.
        track: The state.
        site: The site.
    """
    order = order_of(federation, track, site)
    return candidate(federation.sites[site], federation.initial_weights, track.memories[site], order)


def coordinated(changes: Mapping[str, Any]) -> Method[Track]:
    """Return the product's own algorithm with changed settings."""
    return Method(
        start=lambda federation: begin(federation.under(changes)),
        round=lambda federation, track: advance(federation.under(changes), track),
        model_of=lambda federation, track, site: deployed(federation.under(changes), track, site),
    )


def order_of(federation: Federation, track: Track, site: str) -> RoundOrder:
    """Return the server's order for a site in the next round.

    Args:
        federation: The federation.
        track: The state.
        site: The site.
    """
    return order_for(track.server, _member(track, site), federation.config)


def _member(track: Track, site: str) -> Member:
    return next(member for member in track.server.members if member.site == site)
