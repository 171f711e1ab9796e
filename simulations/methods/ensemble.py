"""The own and the federated model side by side: the plainest way to have both."""

from dataclasses import dataclass

from simulations.methods.alone import alone
from simulations.methods.fedavg import fedavg
from simulations.methods.method import Ensemble, Federation, Method
from simulations.methods.track import Track

__all__ = ["ensemble"]


@dataclass(frozen=True)
class Both:
    """Two runs side by side."""

    own: Track
    shared: Track


def ensemble() -> Method[Both]:
    """The mean of the probabilities of `alone` and `fedavg`; each takes its steps, a site thus twice as many."""
    one, two = alone(), fedavg()

    def start(federation: Federation) -> Both:
        return Both(one.start(federation.only(federation.receivers)), two.start(federation))

    def round(federation: Federation, state: Both) -> Both:
        return Both(one.round(federation.only(federation.receivers), state.own), two.round(federation, state.shared))

    def model_of(federation: Federation, state: Both, site: str) -> Ensemble:
        own = one.model_of(federation.only(federation.receivers), state.own, site)
        return Ensemble((own, two.model_of(federation, state.shared, site)))

    return Method(start, round, model_of)
