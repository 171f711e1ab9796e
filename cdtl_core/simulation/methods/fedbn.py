"""FedBN: all weights are averaged over all sites, norms stay at each site."""

from cdtl_core.simulation.methods.method import Method
from cdtl_core.simulation.methods.track import Track, coordinated

__all__ = ["fedbn"]


def fedbn() -> Method[Track]:
    """Return the product's `fedbn`: patient-weighted means of all modalities, local norms.

    Source: Li et al. 2021 (FedBN). Differs: sites weigh by patients; a head is shared among sites of one label map.
    """
    return coordinated({"method": "fedbn"})
