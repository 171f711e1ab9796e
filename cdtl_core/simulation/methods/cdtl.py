"""CDTL: each site trains its own and the joint model, and pools both at the end with a share set by evidence."""

from dataclasses import dataclass

from cdtl_core.federation.evidence import PooledModel, mean_of_others, pool_models
from cdtl_core.federation.one_network import with_one_network
from cdtl_core.federation.site import OwnModel, own_head
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, advance, begin, deployed

__all__ = ["Pair", "cdtl", "mean_of_other_heads"]

_JOINT = {"method": "cdtl"}


@dataclass(frozen=True)
class Pair:
    """The run of the joint model, and the run in which each site trains its own model."""

    joint: Track
    own: Track


def cdtl(*, equal: bool = False) -> Method[Pair]:
    """Return the product's method: joint model and own model, pooled at the receiver.

    Args:
        equal: Whether the share is always 1, regardless of the evidence.

    Source: eq. (10), Inbaraj et al. 2025, applied once at the receiver at unit spread.
    """

    def start(federation: Federation) -> Pair:
        return Pair(begin(federation.under(_JOINT)), begin(_own_part(federation)))

    def round(federation: Federation, state: Pair) -> Pair:
        return Pair(advance(federation.under(_JOINT), state.joint), advance(_own_part(federation), state.own))

    def model_of(federation: Federation, state: Pair, site: str) -> Weights | PooledModel:
        own = deployed(_own_part(federation), state.own, site)
        if federation.sites[site].cohort.labels != federation.config.task.labels:
            return own
        joint = deployed(federation.under(_JOINT), state.joint, site)
        others = mean_of_other_heads(federation, state.own, site)
        here = federation.sites[site]
        pooled = pool_models(here, own, joint, others, equal=equal, judge=federation.kept.out_of_fold)
        return pooled if federation.config.trains_only_heads else with_one_network(here, pooled)

    return Method(start, round, model_of)


def _own_part(federation: Federation) -> Federation:
    """Return local training of all sites if other sites' heads are evidence, else of the receivers."""
    everyone = federation.config.trains_only_heads
    return (federation if everyone else federation.only(federation.receivers)).under({"method": "alone"})


def mean_of_other_heads(federation: Federation, own: Track, site: str) -> Weights | None:
    """Return the mean of other sites' own heads with the same labels, weighted by patients; None if there is none.

    Args:
        federation: The federation.
        own: The run of local training.
        site: The receiver.
    """
    heads = {name: own_head(federation.sites[name], OwnModel(memory=memory)) for name, memory in own.memories.items()}
    counts = {member.site: member.num_patients for member in own.server.members}
    same_labels = [name for name in heads if heads[name].keys() == heads[site].keys()]
    sums = {}
    for name in same_labels:
        weighted = {key: counts[name] * value.double() for key, value in heads[name].items()}
        sums[name] = weighted, counts[name]
    return mean_of_others(sums, heads[site], counts[site])
