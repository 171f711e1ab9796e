"""Each site by itself: what a federation must be worth more than."""

from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, advance, begin, coordinated, deployed, received
from cdtl_core.training.objective import Proximal

__all__ = ["alone", "alone_ridge"]

_OWN = {"method": "alone"}


def alone() -> Method[Track]:
    """Every site is its own group; nothing crosses, nothing is sent but to itself.

    Differs: between rounds a site's weights pass the grid of float16 that all methods exchange on.
    """
    return coordinated(_OWN)


def alone_ridge(strength: float) -> Method[Track]:
    """`alone` with ``strength / 2 ||w - w0||^2`` in its loss; a head starts at zero, so for a head it is ridge.

    Args:
        strength: 0 is training alone.
    """

    def round(federation: Federation, track: Track) -> Track:
        own = federation.under(_OWN)
        return advance(own, track, lambda site: Proximal(strength, received(own, begin(own), site)))

    return Method(
        start=lambda federation: begin(federation.under(_OWN)),
        round=round,
        model_of=lambda federation, track, site: deployed(federation.under(_OWN), track, site),
    )
