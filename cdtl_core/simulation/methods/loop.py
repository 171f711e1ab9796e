"""The loop that runs every method."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from cdtl_core.config import RunConfig
from cdtl_core.errors import ConfigError, ModelError
from cdtl_core.federation.evidence import PooledModel
from cdtl_core.federation.site import Site
from cdtl_core.models.weights import Weights, check_finite
from cdtl_core.simulation.methods.method import Ensemble, Federation, Method, Model, federation_of

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
    models = {site: method.model_of(federation, state, site) for site in federation.receivers}
    for site, model in models.items():
        _check_model(model, federation.sites[site])
    return models


def _check_model(model: Model, site: Site) -> None:
    """Refuse what no classifier of a site can be, as a method of one's own may return it."""
    for part in _classifiers(model):
        names = {name for name, value in site.model.state_dict().items() if value.is_floating_point()}  # no counters
        if not isinstance(part, Mapping):
            raise ModelError(f"model_of returned {type(part).__name__} for {site.name}: return tensors by name.")
        if missing := sorted(names - part.keys()):
            raise ModelError(
                f"model_of returned {len(part)} of {len(names)} tensors for {site.name}, without '{missing[0]}': "
                "return all of them, as `deployed` does."
            )
        check_finite(part, f"the model that model_of returned for {site.name}")


def _classifiers(model: Model) -> tuple[Weights, ...]:
    if isinstance(model, Ensemble):
        return tuple(one for part in model.parts for one in _classifiers(part))
    if isinstance(model, PooledModel):
        return (model.own, model.joint) if model.one is None else (model.one,)
    return (model,)


def states_of(method: Method[State], federation: Federation) -> Iterator[State]:
    """Yield the state after each round."""
    state = _returned(method.start(federation), "start")
    for _ in range(federation.config.federation.rounds):
        state = _returned(method.round(federation, state), "round")
        yield state


def _returned(state: State, by: str) -> State:
    if state is None:
        raise ConfigError(f"{by} of the method returned None: return the state.")
    return state


def last(states: Iterable[State]) -> State:
    """Return the last of at least one state."""
    *_, state = states
    return state
