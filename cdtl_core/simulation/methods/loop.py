"""The loop that runs every method."""

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
    """Run all rounds of a method; return each site's final classifier by the site's name.

    Args:
        method: The method.
        sites: All sites.
        initial_weights: The common start.
        config: The run.
        only: Sites whose classifiers are wanted; None: all.

    Raises:
        CdtlError: A setting, the data or the training fails; the sentence gives the reason.
    """
    return play_in(federation_of(sites, initial_weights, config, receivers=only), method)


def play_in(federation: Federation, method: Method[Any]) -> dict[str, Model]:
    """Run a method in an existing federation; see `play`."""
    state = last(states_of(method, federation))
    return {site: method.model_of(federation, state, site) for site in federation.receivers}


def states_of(method: Method[State], federation: Federation) -> Iterator[State]:
    """Yield the state after each round."""
    state = method.start(federation)
    for _ in range(federation.config.federation.rounds):
        state = method.round(federation, state)
        yield state


def last(states: Iterable[State]) -> State:
    """Return the last of at least one state."""
    *_, state = states
    return state
