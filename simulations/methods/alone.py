"""Each site by itself: what a federation must be worth more than."""

from simulations.methods.method import Method
from simulations.methods.track import Track, coordinated

__all__ = ["alone"]


def alone() -> Method[Track]:
    """Every site is its own group; nothing crosses, nothing is sent but to itself.

    Differs: between rounds a site's weights pass the grid of float16 that all methods exchange on.
    """
    return coordinated({"method": "alone"})
