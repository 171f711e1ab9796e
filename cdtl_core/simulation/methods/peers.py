"""One model per site at the server, mixed by a matrix over sites: what FedAMP and FedCross are made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cdtl_core.federation.blend import Matrix, blend
from cdtl_core.federation.finish import candidate
from cdtl_core.federation.round import shares_head, start
from cdtl_core.federation.site import RoundOrder, SiteMemory, load_round
from cdtl_core.models.weights import Weights, take, to_half
from cdtl_core.simulation.methods.method import Federation
from cdtl_core.simulation.methods.track import ObjectiveOf, plain, round_of

__all__ = ["Peers", "begin_peers", "deployed_peer", "mix_peers", "received_peer", "train_peers"]
__all__ += ["weights_of"]


@dataclass(frozen=True)
class Peers:
    """The server's models and what the sites keep.

    Attributes:
        round: 0 before training.
        offsets: One model per site less the initial weights, on the grid of float16, by the names that travel.
        memories: Norms, and heads that are not shared.
    """

    round: int
    offsets: Mapping[str, Weights]
    memories: Mapping[str, SiteMemory]


def begin_peers(federation: Federation) -> Peers:
    """Before the first round."""
    return Peers(0, {site: {} for site in federation.sites}, dict.fromkeys(federation.sites, SiteMemory()))


def train_peers(
    federation: Federation, state: Peers, received: Mapping[str, Weights], objective_of: ObjectiveOf = plain
) -> Peers:
    """Every site trains the offset it received for one round; the state holds what it trained, under its own name."""
    offsets, memories = {}, {}
    for name, site in federation.sites.items():
        order, objective = _order(federation, state, name, received[name]), objective_of(name)
        memories[name], update = round_of(federation, site, state.memories[name], order, objective)
        offsets[name] = to_half(_moved(received[name], update.delta))
    return Peers(state.round + 1, offsets, memories)


def mix_peers(offsets: Mapping[str, Weights], matrix: Matrix) -> dict[str, Weights]:
    """Each site's row of the matrix over all models, on the grid; a head among those of its label map."""
    return {site: to_half(offset) for site, offset in blend(offsets, matrix).items()}


def received_peer(federation: Federation, state: Peers, site: str, offset: Weights) -> Weights:
    """Initial weights plus an offset, by the names in the site's model, over the tensors that leave the site."""
    here = federation.sites[site]
    order = _order(federation, state, site, offset)
    parts = load_round(here, federation.initial_weights, state.memories[site], order)
    return take(here.model, parts.shared)


def weights_of(initial_weights: Weights, offset: Weights) -> Weights:
    """A model's shared tensors by the names that travel, float64, for the server to compare; heads start at zero."""
    return {
        name: value.double() + initial_weights[name].double() if name in initial_weights else value.double()
        for name, value in offset.items()
    }


def deployed_peer(federation: Federation, state: Peers, site: str, offset: Weights) -> Weights:
    """The classifier of an offset at a site, with its own norms."""
    order = _order(federation, state, site, offset)
    return candidate(federation.sites[site], federation.initial_weights, state.memories[site], order)


def _order(federation: Federation, state: Peers, site: str, offset: Weights) -> RoundOrder:
    """A head is shared as FedBN shares it."""
    shared = federation.under({"method": "fedbn"})
    server = start(shared.members, shared.config)
    member = next(member for member in server.members if member.site == site)
    return RoundOrder(state.round + 1, offset, shares_head(server, member, shared.config))


def _moved(offset: Weights, delta: Mapping[str, torch.Tensor]) -> Weights:
    moved = {name: value.double() for name, value in offset.items()}
    for name, value in delta.items():
        moved[name] = moved[name] + value.double() if name in moved else value.double()
    return {name: value.float() for name, value in moved.items()}
