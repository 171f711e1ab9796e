"""FedBN, then one round of local training: the usual way to make a federated model a site's own."""

from dataclasses import replace

from cdtl_core.federation.site import run_round, with_fresh_norms
from cdtl_core.learning.weights import Weights
from simulations.methods.fedbn import fedbn
from simulations.methods.method import Federation, Method
from simulations.methods.track import Track, order_of

__all__ = ["fedbn_tuned"]

_SHARED = {"method": "fedbn"}


def fedbn_tuned() -> Method[Track]:
    """FedBN whose receiver trains the joint model for one more round, which it keeps to itself."""

    def model_of(federation: Federation, track: Track, site: str) -> Weights:
        shared = federation.under(_SHARED)
        here, order = shared.sites[site], order_of(shared, track, site)
        run_round(here, federation.theta0, track.memories[site], order)  # its model now holds what it trained
        return with_fresh_norms(here)

    return replace(fedbn(), model_of=model_of)
