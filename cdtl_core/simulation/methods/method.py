"""The interface of a method: three functions over plain values, and the federation they get."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from cdtl_core.config import RunConfig
from cdtl_core.config.settings import changed_run
from cdtl_core.data.cohort import Fold
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.contract import label_hash
from cdtl_core.federation.evidence import PooledModel, score_model
from cdtl_core.federation.site import Site
from cdtl_core.federation.state import Member
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.kept import Kept

__all__ = ["Ensemble", "Federation", "Method", "Model", "federation_of", "score_any"]

State = TypeVar("State")


@dataclass(frozen=True)
class Ensemble:
    """Models whose probabilities are averaged."""

    parts: tuple["Model", ...]


Model = Weights | PooledModel | Ensemble
"""A site's final model: a classifier, two pooled ones, or several with averaged probabilities."""


@dataclass(frozen=True)
class Federation:
    """The input of every method.

    Attributes:
        sites: By name, in the order of their names; each holds `config`.
        initial_weights: The common start.
        config: Rounds, training and seed.
        receivers: Sites whose models are wanted; a method need not train what only other sites would use.
        still: Sites that stay at the initial weights, for a control.
        kept: Earlier answers of sites, also to other methods.
    """

    sites: Mapping[str, Site]
    initial_weights: Weights
    config: RunConfig
    receivers: tuple[str, ...]
    still: frozenset[str] = frozenset()
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)

    @property
    def members(self) -> tuple[Member, ...]:
        """The sites as a server knows them."""
        return tuple(
            Member(s.name, s.modality, s.cohort.folds["train"].num_patients, label_hash(s.cohort.labels))
            for s in self.sites.values()
        )

    def under(self, changes: Mapping[str, Any]) -> "Federation":
        """Return the federation with other settings; a table in `changes` changes the named settings only.

        Raises:
            ConfigError: A setting is unknown or out of range.
        """
        config = changed_run(self.config, changes, "federation.under")
        sites = {name: replace(site, config=config) for name, site in self.sites.items()}
        return replace(self, sites=sites, config=config)

    def only(self, names: Collection[str]) -> "Federation":
        """Return the federation without the other sites."""
        return replace(self, sites={name: site for name, site in self.sites.items() if name in names})

    def with_site(self, site: Site) -> "Federation":
        """Return the federation with this site in place of the one with its name."""
        return replace(self, sites={**self.sites, site.name: site})


@dataclass(frozen=True)
class Method(Generic[State]):
    """A federated method with explicit state; models are built only for computation.

    Attributes:
        start: Returns the state before the first round.
        round: Returns the state after one more round, in which every site takes `train.steps` steps.
        model_of: Returns the classifier that a receiver would use now, with the site's own norms unless the method
            shares them.
        about: The method in a few words, for lists.
    """

    start: Callable[[Federation], State]
    round: Callable[[Federation, State], State]
    model_of: Callable[[Federation, State, str], Model]
    about: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for part in ("start", "round", "model_of"):
            if not callable(getattr(self, part)):
                raise ConfigError(f"{part} of the method is {getattr(self, part)!r}: give a function.")


def federation_of(
    sites: Iterable[Site],
    initial_weights: Weights,
    config: RunConfig,
    *,
    receivers: Collection[str] | None = None,
    still: Collection[str] = (),
    kept: Kept | None = None,
) -> Federation:
    """Build a federation of these sites under `config`.

    Args:
        sites: All sites.
        initial_weights: The common start.
        config: The run.
        receivers: Sites whose models are wanted; None: all.
        still: Sites that stay at the initial weights.
        kept: Earlier answers of sites; None: none.

    Raises:
        FederationError: No site, or two with one name.
        ConfigError: The run asks for differential privacy, which only the product's own method has.
    """
    if config.dp.enabled:
        raise ConfigError("a comparison has no differential privacy: set dp.enabled = false.")
    ordered = sorted(sites, key=lambda site: site.name)
    named = {site.name: replace(site, config=config) for site in ordered}
    if not ordered or len(named) != len(ordered):
        raise FederationError(
            f"{len(ordered)} sites have {len(named)} names: give at least one site, each with its own name."
        )
    asked = tuple(name for name in named if receivers is None or name in receivers)
    return Federation(named, initial_weights, config, asked, frozenset(still), Kept() if kept is None else kept)


def score_any(site: Site, model: Model, fold: Fold) -> npt.NDArray[np.float64]:
    """Return log-probabilities N K of a fold's images; an ensemble averages the probabilities of its parts.

    Args:
        site: The site.
        model: A classifier, pool or ensemble.
        fold: The images.
    """
    if isinstance(model, Ensemble):
        parts = [score_any(site, part, fold) for part in model.parts]
        return np.asarray(logsumexp(parts, axis=0) - np.log(len(parts)), np.float64)
    return score_model(site, model, fold)
