"""The one loop that plays every method."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from cdtl_core.config import RunConfig
from cdtl_core.federation.evidence import PooledModel
from cdtl_core.federation.site import Site
from cdtl_core.learning.weights import Weights
from simulations.methods.kept import Kept
from simulations.methods.method import Federation, Method, federation_of

__all__ = ["play", "states_of"]

State = TypeVar("State")


def play(
    method: Method[Any],
    sites: Iterable[Site],
    theta0: Weights,
    config: RunConfig,
    only: Collection[str] | None = None,
    *,
    kept: Kept | None = None,
) -> dict[str, Weights | PooledModel]:
    """Play all rounds of a method; returns the classifier that each site ends with, by the site's name.

    Args:
        method: What is played.
        sites: Who takes part.
        theta0: What all start from.
        config: The run.
        only: Sites whose classifiers are asked for; None: all.
        kept: What sites have answered before; None: nothing.

    Raises:
        CdtlError: A setting, the data or the training fails; the sentence says which.
    """
    federation = federation_of(sites, theta0, config, kept)
    state = last(states_of(method, federation))
    return {site: method.model_of(federation, state, site) for site in only or federation.sites}


def states_of(method: Method[State], federation: Federation) -> Iterator[State]:
    """The state after each round, for those who look at a run on its way (or average over its rounds)."""
    state = method.start(federation)
    for _ in range(federation.config.federation.rounds):
        state = method.round(federation, state)
        yield state


def last(states: Iterable[State]) -> State:
    """The last of at least one."""
    *_, state = states
    return state
