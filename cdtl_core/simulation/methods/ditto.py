"""Ditto: a personal model next to the global one, regularised towards it."""

from dataclasses import dataclass

from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.track import Track, advance, begin, deployed, received
from cdtl_core.training.objective import Proximal

__all__ = ["Ditto", "ditto", "personal_of"]

_GLOBAL = {"method": "fedbn"}


@dataclass(frozen=True)
class Ditto:
    """The global model's run and the personal models', side by side."""

    shared: Track
    personal: Track


def ditto(strength: float = 0.1) -> Method[Ditto]:
    """Return Ditto: the global model is FedBN's; a personal one adds ``strength / 2 ||v - w||^2`` with the received w.

    Args:
        strength: lambda; 0 is local training, bit for bit.

    Source: Li et al. 2021 (Ditto), algorithm 1. Differs: norms are each model's own; a site takes its steps twice a
    round, once for each model, and only the personal one's are compared.
    """

    def start(federation: Federation) -> Ditto:
        return Ditto(begin(federation.under(_GLOBAL)), begin(personal_of(federation)))

    def round(federation: Federation, state: Ditto) -> Ditto:
        shared, own = federation.under(_GLOBAL), personal_of(federation)
        personal = advance(own, state.personal, lambda site: Proximal(strength, received(shared, state.shared, site)))
        return Ditto(advance(shared, state.shared), personal)

    def model_of(federation: Federation, state: Ditto, site: str) -> Weights:
        return deployed(personal_of(federation), state.personal, site)

    return Method(start, round, model_of)


def personal_of(federation: Federation) -> Federation:
    """Return the receivers without the other sites, whose personal models are not used."""
    return federation.only(federation.receivers).under({"method": "alone"})
