"""What a method is: three functions over plain values. What it is given: a federation."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from cdtl_core.config import RunConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.errors import ConfigError, FederationError
from cdtl_core.federation.evidence import PooledModel, score_model
from cdtl_core.federation.label_map import label_hash
from cdtl_core.federation.round import Member
from cdtl_core.federation.site import Site
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.kept import Kept

__all__ = ["Ensemble", "Federation", "Method", "Model", "federation_of", "score_any"]

State = TypeVar("State")


@dataclass(frozen=True)
class Ensemble:
    """Models whose probabilities are averaged."""

    parts: tuple["Model", ...]


Model = Weights | PooledModel | Ensemble
"""What a site ends with: a classifier, two that are pooled, or several whose probabilities are averaged."""


@dataclass(frozen=True)
class Federation:
    """What every method is given.

    Attributes:
        sites: By name, in the order of their names; each holds `config`.
        initial_weights: What all start from.
        config: The one truth about rounds, training and seed.
        receivers: Sites whose models are asked for; a method need not train what only other sites would use.
        still: Sites that stay at the initial weights, for a control.
        kept: What sites have answered before, also to other methods.
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
        """The same federation with settings changed; a table in `changes` changes what it names and leaves the rest.

        Raises:
            pydantic.ValidationError: A setting is unknown or out of range.
        """
        settings = self.config.model_dump()
        merged = {
            key: {**settings[key], **value} if isinstance(value, Mapping) else value for key, value in changes.items()
        }
        config = RunConfig.model_validate({**settings, **merged})
        sites = {name: replace(site, config=config) for name, site in self.sites.items()}
        return replace(self, sites=sites, config=config)

    def only(self, names: Collection[str]) -> "Federation":
        """The same federation without the other sites."""
        return replace(self, sites={name: site for name, site in self.sites.items() if name in names})

    def with_site(self, site: Site) -> "Federation":
        """The same federation with this site in the place of the one of its name."""
        return replace(self, sites={**self.sites, site.name: site})


@dataclass(frozen=True)
class Method(Generic[State]):
    """A federated method as state in, state out; states are values, a site's model is only where they are computed.

    Attributes:
        start: The state before the first round.
        round: The state after one more round, in which every site takes `train.steps` steps.
        model_of: The full classifier that a receiver would use now, with the site's own norms unless the method shares
            them.
    """

    start: Callable[[Federation], State]
    round: Callable[[Federation, State], State]
    model_of: Callable[[Federation, State, str], Model]


def federation_of(
    sites: Iterable[Site],
    initial_weights: Weights,
    config: RunConfig,
    *,
    receivers: Collection[str] | None = None,
    still: Collection[str] = (),
    kept: Kept | None = None,
) -> Federation:
    """A federation of these sites under `config`.

    Args:
        sites: Who takes part.
        initial_weights: What all start from.
        config: The run.
        receivers: Sites whose models are asked for; None: all.
        still: Sites that stay at initial_weights.
        kept: What sites have answered before; None: nothing.

    Raises:
        FederationError: No site, or two of one name.
        ConfigError: The run asks for differential privacy, which no method here but the product's own has.
    """
    if config.dp.enabled:
        raise ConfigError("methods are compared without differential privacy: set dp.enabled = false.")
    ordered = sorted(sites, key=lambda site: site.name)
    named = {site.name: replace(site, config=config) for site in ordered}
    if not ordered or len(named) != len(ordered):
        raise FederationError(f"{len(ordered)} sites have {len(named)} names: give at least one, each its own name.")
    asked = tuple(name for name in named if receivers is None or name in receivers)
    return Federation(named, initial_weights, config, asked, frozenset(still), Kept() if kept is None else kept)


def score_any(site: Site, model: Model, fold: Fold) -> npt.NDArray[np.float64]:
    """Log-probabilities N K of a fold's images; an ensemble's probabilities are the means of its parts'."""
    if isinstance(model, Ensemble):
        parts = [score_any(site, part, fold) for part in model.parts]
        return np.asarray(logsumexp(parts, axis=0) - np.log(len(parts)), np.float64)
    return score_model(site, model, fold)
