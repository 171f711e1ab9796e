"""Baselines of a receiver without CDTL: the donors' model, the tuned joint model, or an ensemble."""

from dataclasses import dataclass, replace

from cdtl_core.errors import ConfigError
from cdtl_core.federation.finish import candidate
from cdtl_core.federation.site import OwnModel, RoundOrder, SiteMemory, own_head, run_round, with_fresh_norms
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.alone import alone
from cdtl_core.simulation.methods.fedavg import fedavg
from cdtl_core.simulation.methods.fedbn import fedbn
from cdtl_core.simulation.methods.method import Ensemble, Federation, Method
from cdtl_core.simulation.methods.track import Track, advance, begin, order_of

__all__ = ["donors_only", "ensemble", "fedbn_tuned"]

_SHARED = {"method": "fedbn"}


def fedbn_tuned() -> Method[Track]:
    """Return FedBN whose receiver trains the joint model for one more round and does not share it."""

    def model_of(federation: Federation, track: Track, site: str) -> Weights:
        shared = federation.under(_SHARED)
        here, order = shared.sites[site], order_of(shared, track, site)
        run_round(
            here, federation.initial_weights, track.memories[site], order
        )  # its model now holds the result of the training
        return with_fresh_norms(here)

    return replace(fedbn(), model_of=model_of)


@dataclass(frozen=True)
class Both:
    """Two runs side by side."""

    own: Track
    shared: Track


def ensemble() -> Method[Both]:
    """Return the mean of the probabilities of `alone` and `fedavg`; a site takes twice as many steps."""
    one, two = alone(), fedavg()

    def start(federation: Federation) -> Both:
        return Both(one.start(federation.only(federation.receivers)), two.start(federation))

    def round(federation: Federation, state: Both) -> Both:
        return Both(one.round(federation.only(federation.receivers), state.own), two.round(federation, state.shared))

    def model_of(federation: Federation, state: Both, site: str) -> Ensemble:
        own = one.model_of(federation.only(federation.receivers), state.own, site)
        return Ensemble((own, two.model_of(federation, state.shared, site)))

    return Method(start, round, model_of)


def donors_only() -> Method[Track]:
    """Return FedBN over all sites except the receivers, evaluated at a receiver with its own norm statistics.

    The receiver trains nothing. It only computes the centre of its features, or the running statistics of its norms.
    """
    inner = fedbn()

    def start(federation: Federation) -> Track:
        return inner.start(_others(federation))

    def round(federation: Federation, track: Track) -> Track:
        return inner.round(_others(federation), track)

    def model_of(federation: Federation, track: Track, site: str) -> Weights:
        own = federation.only([site]).under({"method": "alone"})
        local = advance(own, begin(own)).memories[site].local or {}
        centre = {name: value for name, value in local.items() if name.startswith("centre.")}
        order = RoundOrder(1, _offset(_others(federation), track), share_head=True)
        return candidate(own.sites[site], federation.initial_weights, SiteMemory(0, centre), order)

    return Method(start, round, model_of)


def _others(federation: Federation) -> Federation:
    others = [name for name in federation.sites if name not in federation.receivers]
    if not others:
        raise ConfigError("the method 'donors' has no other site: name a receiver with --target.")
    return federation.only(others)


def _offset(others: Federation, track: Track) -> Weights:
    """Return an offset of the sites: under FedBN every modality has the same. A single site's head is not shared."""
    offset = next(iter(track.server.offsets.values()))
    if len(others.sites) > 1:
        return offset
    ((name, site),) = others.sites.items()
    return offset | own_head(site, OwnModel(memory=track.memories[name]))
