"""The other sites' joint model at a site that had no part in it."""

from cdtl_core.errors import ConfigError
from cdtl_core.federation.finish import candidate
from cdtl_core.federation.site import OwnModel, RoundOrder, SiteMemory, own_head
from cdtl_core.learning.weights import Weights
from simulations.methods.fedbn import fedbn
from simulations.methods.method import Federation, Method
from simulations.methods.track import Track, advance, begin

__all__ = ["donors_only"]


def donors_only() -> Method[Track]:
    """FedBN over all sites but the receivers, evaluated at a receiver with the statistics of its own images.

    The receiver trains nothing: what it adds is the centre of its features, or the running statistics of its norms.
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
        order = RoundOrder(1, _drift(_others(federation), track), share_head=True)
        return candidate(own.sites[site], federation.theta0, SiteMemory(0, centre), order)

    return Method(start, round, model_of)


def _others(federation: Federation) -> Federation:
    others = [name for name in federation.sites if name not in federation.receivers]
    if not others:
        raise ConfigError("the method 'donors' has no other site: name a receiver with --target.")
    return federation.only(others)


def _drift(others: Federation, track: Track) -> Weights:
    """Of all sites: under FedBN each modality holds the same. A single site's head is not shared: it keeps it."""
    drift = next(iter(track.server.drifts.values()))
    if len(others.sites) > 1:
        return drift
    ((name, site),) = others.sites.items()
    return drift | own_head(site, OwnModel(memory=track.memories[name]))
