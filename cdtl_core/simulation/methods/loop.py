"""The one loop that plays every method."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from cdtl_core.config import RunConfig
from cdtl_core.federation.site import Site
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.method import Federation, Method, Model, federation_of

__all__ = ["last", "play", "play_in", "states_of"]

State = TypeVar("State")


def play(
    method: Method[Any],
    sites: Iterable[Site],
    initial_weights: Weights,
    config: RunConfig,
    only: Collection[str] | None = None,
) -> dict[str, Model]:
    """Play all rounds of a method; returns the classifier that each site ends with, by the site's name.

    Args:
        method: What is played.
        sites: Who takes part.
        initial_weights: What all start from.
        config: The run.
        only: Sites whose classifiers are asked for; None: all.

    Raises:
        CdtlError: A setting, the data or the training fails; the sentence says which.
    """
    return play_in(federation_of(sites, initial_weights, config, receivers=only), method)


def play_in(federation: Federation, method: Method[Any]) -> dict[str, Model]:
    """The same in a federation that is there already."""
    state = last(states_of(method, federation))
    return {site: method.model_of(federation, state, site) for site in federation.receivers}


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
