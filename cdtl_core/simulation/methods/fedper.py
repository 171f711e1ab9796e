"""FedPer: the base is shared, the last layer is personal."""

from cdtl_core.simulation.methods.method import Method
from cdtl_core.simulation.methods.track import Track, coordinated

__all__ = ["fedper"]


def fedper() -> Method[Track]:
    """Return FedBN whose heads stay at their sites.

    Source: Arivazhagan et al. 2019. Differs: norms are personal too, as everywhere here; one personal layer, the head.
    """
    return coordinated({"method": "fedbn", "share": {"head": False}})
