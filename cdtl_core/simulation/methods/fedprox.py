"""FedProx: local training is regularised towards the received weights."""

from dataclasses import replace

from cdtl_core.simulation.methods.fedbn import fedbn
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, advance, received
from cdtl_core.training.objective import Proximal

__all__ = ["fedprox"]

_SHARED = {"method": "fedbn"}


def fedprox(mu: float = 0.01) -> Method[Track]:
    """Return FedBN with ``mu / 2 ||w - w_received||^2`` in every site's loss.

    Args:
        mu: Strength; 0 is FedBN, bit for bit.

    Source: Li et al. 2020, algorithm 2. Differs: every site takes part in every round with the same number of steps;
    norms are local and not regularised.
    """

    def round(federation: Federation, track: Track) -> Track:
        shared = federation.under(_SHARED)
        return advance(shared, track, lambda site: Proximal(mu, received(shared, track, site)))

    return replace(fedbn(), round=round)
