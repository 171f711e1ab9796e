"""One model per site at the server, mixed by a matrix over sites: the basis of FedAMP and FedCross."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cdtl_core.federation.blend import blend
from cdtl_core.federation.finish import candidate
from cdtl_core.federation.received import load_round
from cdtl_core.federation.site import RoundOrder, SiteMemory
from cdtl_core.federation.state import shares_head, start
from cdtl_core.federation.transfer import Matrix
from cdtl_core.models.weights import Weights, take, to_half
from cdtl_core.simulation.methods.method import Federation
from cdtl_core.simulation.methods.track import ObjectiveOf, plain, round_of

__all__ = ["Peers", "begin_peers", "deployed_peer", "mix_peers", "received_peer", "train_peers"]
__all__ += ["weights_of"]


@dataclass(frozen=True)
class Peers:
    """The server's models and the sites' local tensors.

    Attributes:
        round: 0 before training.
        offsets: One model per site minus the initial weights, rounded to float16, by shared names.
        memories: Norms, and heads that are not shared.
    """

    round: int
    offsets: Mapping[str, Weights]
    memories: Mapping[str, SiteMemory]


def begin_peers(federation: Federation) -> Peers:
    """Return the state before the first round."""
    return Peers(0, {site: {} for site in federation.sites}, dict.fromkeys(federation.sites, SiteMemory()))


def train_peers(
    federation: Federation, state: Peers, received: Mapping[str, Weights], objective_of: ObjectiveOf = plain
) -> Peers:
    """Train every site for one round from the offset it received; return the trained offsets by site.

    Args:
        federation: The federation.
        state: The state before the round.
        received: Site to the offset it received.
        objective_of: Site to its objective.
    """
    offsets, memories = {}, {}
    for name, site in federation.sites.items():
        order, objective = _order(federation, state, name, received[name]), objective_of(name)
        memories[name], update = round_of(federation, site, state.memories[name], order, objective)
        offsets[name] = to_half(_moved(received[name], update.delta))
    return Peers(state.round + 1, offsets, memories)


def mix_peers(offsets: Mapping[str, Weights], matrix: Matrix) -> dict[str, Weights]:
    """Mix all models by each site's row of the matrix, rounded to float16; heads only among equal label maps."""
    return {site: to_half(offset) for site, offset in blend(offsets, matrix).items()}


def received_peer(federation: Federation, state: Peers, site: str, offset: Weights) -> Weights:
    """Return initial weights plus an offset, by the names in the site's model, over the tensors that leave the site.

    Args:
        federation: The federation.
        state: The state.
        site: The site.
        offset: The offset.
    """
    here = federation.sites[site]
    order = _order(federation, state, site, offset)
    parts = load_round(here, federation.initial_weights, state.memories[site], order)
    return take(here.model, parts.shared)


def weights_of(initial_weights: Weights, offset: Weights) -> Weights:
    """Return a model's shared tensors by shared names, float64, for comparisons; heads start at zero."""
    return {
        name: value.double() + initial_weights[name].double() if name in initial_weights else value.double()
        for name, value in offset.items()
    }


def deployed_peer(federation: Federation, state: Peers, site: str, offset: Weights) -> Weights:
    """Return the classifier of an offset at a site, with its own norms.

    Args:
        federation: The federation.
        state: The state.
        site: The site.
        offset: The offset.
    """
    order = _order(federation, state, site, offset)
    return candidate(federation.sites[site], federation.initial_weights, state.memories[site], order)


def _order(federation: Federation, state: Peers, site: str, offset: Weights) -> RoundOrder:
    """Return a round's order, with the head shared as in FedBN."""
    shared = federation.under({"method": "fedbn"})
    server = start(shared.members, shared.config)
    member = next(member for member in server.members if member.site == site)
    return RoundOrder(state.round + 1, offset, shares_head(server, member, shared.config))


def _moved(offset: Weights, delta: Mapping[str, torch.Tensor]) -> Weights:
    moved = {name: value.double() for name, value in offset.items()}
    for name, value in delta.items():
        moved[name] = moved[name] + value.double() if name in moved else value.double()
    return {name: value.float() for name, value in moved.items()}
