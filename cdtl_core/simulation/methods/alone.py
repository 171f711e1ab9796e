"""Local training: each site trains on its own images; the reference for every gain."""

from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, advance, begin, coordinated, deployed, received
from cdtl_core.training.objective import Proximal

__all__ = ["alone", "alone_ridge"]

_OWN = {"method": "alone"}


def alone() -> Method[Track]:
    """Return local training: every site is its own group, and nothing is shared.

    Differs: between rounds a site's weights are rounded to float16 as in all methods.
    """
    return coordinated(_OWN)


def alone_ridge(strength: float) -> Method[Track]:
    """Return `alone` with ``strength / 2 ||w - w0||^2`` in its loss; for a head, which starts at zero, this is ridge.

    Args:
        strength: 0 is local training.
    """

    def round(federation: Federation, track: Track) -> Track:
        own = federation.under(_OWN)
        return advance(own, track, lambda site: Proximal(strength, received(own, begin(own), site)))

    return Method(
        start=lambda federation: begin(federation.under(_OWN)),
        round=round,
        model_of=lambda federation, track, site: deployed(federation.under(_OWN), track, site),
    )
