"""A method whose strength is chosen by nested validation on the receiver's training patients."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core.data.cohort import Fold
from cdtl_core.errors import ConfigError
from cdtl_core.federation.evidence import deal
from cdtl_core.federation.site import Site
from cdtl_core.metrics.metrics import log_loss_by_patient
from cdtl_core.simulation.methods.loop import play_in
from cdtl_core.simulation.methods.method import Federation, Method, Model, score_any

__all__ = ["Tuned", "inner_folds", "tuned"]

_FOLDS = 3


@dataclass(frozen=True)
class Tuned:
    """The chosen strength, and the state of its method."""

    strength: float
    state: Any


def tuned(make: Callable[[float], Method[Any]], values: Sequence[float]) -> Method[Tuned]:
    """Return the method with the value of `values` that gives held-out training patients the lowest log-loss.

    The receiver's training patients are divided into three folds. For each value the whole federation is run without
    each fold, then once more with all patients and the chosen value. Validation and test patients of the receiver are
    not used.

    Args:
        make: Returns the method for a strength.
        values: The choices; the first of equally good ones is taken.
    """

    def start(federation: Federation) -> Tuned:
        if len(federation.receivers) != 1:
            raise ConfigError(
                f"a strength is chosen for one receiver, but {len(federation.receivers)} are given: use one."
            )
        losses = [_loss(federation, make(value)) for value in values]
        strength = values[int(np.argmin(losses))]
        return Tuned(strength, make(strength).start(federation))

    def round(federation: Federation, state: Tuned) -> Tuned:
        return replace(state, state=make(state.strength).round(federation, state.state))

    def model_of(federation: Federation, state: Tuned, site: str) -> Model:
        return make(state.strength).model_of(federation, state.state, site)

    return Method(start, round, model_of)


def inner_folds(site: Site) -> Iterator[tuple[Site, Fold]]:
    """Yield the site without some of its training patients, and these; every training patient is held out once."""
    train = site.cohort.folds["train"]
    rng = np.random.default_rng([site.config.seed, zlib.crc32(site.name.encode()), zlib.crc32(b"inner folds")])
    fold = deal(train.labels, train.patients, _FOLDS, rng)
    for number in range(_FOLDS):
        kept = train.where(fold != number)
        if (fold == number).any() and len(np.unique(kept.labels)) > 1:
            folds = {**site.cohort.folds, "train": kept}
            yield replace(site, cohort=replace(site.cohort, folds=folds)), train.where(fold == number)


def _loss(federation: Federation, method: Method[Any]) -> float:
    """Return the mean log-loss over patients that the models did not train on; infinite without any."""
    (receiver,) = federation.receivers
    losses: list[npt.NDArray[np.float64]] = []
    for site, held in inner_folds(federation.sites[receiver]):
        model = play_in(federation.with_site(site), method)[receiver]
        losses.append(log_loss_by_patient(held.labels, score_any(site, model, held), held.patients))
    return float(np.concatenate(losses).mean()) if losses else float("inf")
