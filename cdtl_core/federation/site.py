"""A hospital's part of the algorithm: train one round, and score what was received.

State in, state out: `run_round(site, initial_weights, memory, order) -> (memory, update)`. This module does no
networking.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cdtl_core.config import RunConfig
from cdtl_core.data.cohort import Cohort
from cdtl_core.errors import ModelError, PrivacyError
from cdtl_core.federation.contract import head_name
from cdtl_core.federation.passes import Passes
from cdtl_core.federation.received import load
from cdtl_core.metrics.metrics import auroc, log_loss_by_patient
from cdtl_core.models.model import OF_HEAD, Classifier, Parts
from cdtl_core.models.pieces import half_of_difference
from cdtl_core.models.weights import Weights, check_finite, load_into, take, to_half
from cdtl_core.privacy.mechanism import Grant
from cdtl_core.system.progress import report
from cdtl_core.training.device import Where
from cdtl_core.training.inputs import Entry, entry_of
from cdtl_core.training.objective import PLAIN, Objective
from cdtl_core.training.scoring import score
from cdtl_core.training.train import fit, refresh_norms

__all__ = ["OwnModel", "RoundOrder", "Site", "SiteMemory", "SiteUpdate", "is_centred", "run_round"]
__all__ += ["own_head", "train_own", "with_fresh_norms"]


@dataclass(frozen=True)
class Site:
    """One hospital, ready to train.

    Attributes:
        name: Unique in the federation.
        modality: Modality of all its images.
        positive: Index of the positive label within the cohort's labels.
        cohort: Its images, split.
        config: The settings of the federation.
        model: A classifier that is overwritten at each use.
        device: Where it computes, and how.
        cache: Folder for values that can be computed again.
        passes: What its networks gave for its images, at the end of a run (`cdtl_core.federation.passes`).
    """

    name: str
    modality: str
    positive: int
    cohort: Cohort
    config: RunConfig
    model: Classifier
    device: Where
    cache: Path | None = None
    passes: Passes | None = None

    @property
    def entry(self) -> Entry | None:
        """Where inputs enter the model."""
        return entry_of(self.config, self.cache)


@dataclass(frozen=True)
class SiteMemory:
    """A site's local tensors after a round: its norms, its centre, and a head that is not shared."""

    round: int = 0
    local: Weights | None = None


@dataclass(frozen=True)
class RoundOrder:
    """The server's order: the round (from 1), the group's offset, and whether the head is shared."""

    round: int
    offset: Weights
    share_head: bool


@dataclass(frozen=True)
class SiteUpdate:
    """A site's answer. It has no field for norms, a local head, images or their names.

    Attributes:
        site: Its name.
        round: The round it trained.
        delta: Shared tensors, trained minus received, float16; empty for a site whose privacy budget is spent.
        metrics: Scalars: training loss, and validation figures of the received weights; empty under differential
            privacy.
        private: Whether it was trained with differential privacy.
        own: The head of the site's own model, float16, after the last round of a run that trains only heads. Other
            sites judge the joint model by the sum of such heads.
        spent: Whether the site sends nothing more, since its privacy budget is spent: a normal state.
    """

    site: str
    round: int
    delta: Weights
    metrics: Mapping[str, float] = field(default_factory=dict)
    private: bool = False
    spent: bool = False
    own: Weights = field(default_factory=dict)


@dataclass(frozen=True)
class OwnModel:
    """The own model of a site; it stays at the site.

    Attributes:
        offset: Its weights minus the initial weights, rounded to float16, as in a run with the method `alone`.
        memory: Its norms, centre and head.
    """

    offset: Weights = field(default_factory=dict)
    memory: SiteMemory = SiteMemory()

    def order(self, round: int) -> RoundOrder:
        """Return the order of a server that only returns the site's own weights."""
        return RoundOrder(round, self.offset, share_head=False)


def run_round(
    site: Site,
    initial_weights: Weights,
    memory: SiteMemory,
    order: RoundOrder,
    grant: Grant | None = None,
    objective: Objective = PLAIN,
) -> tuple[SiteMemory, SiteUpdate]:
    """Score the received weights, train on them, and return the difference.

    Args:
        site: The hospital.
        initial_weights: Of the federation.
        memory: After the previous round.
        order: The server's order.
        grant: What the site may do in a run with `dp.enabled`; else None.
        objective: What a run without `dp.enabled` minimises.

    Raises:
        ModelError: The weights do not fit, or training diverged.
        PrivacyError: The network has no per-patient gradients, or tensors would leave that privacy does not cover.
    """
    report(site=site.name, round=order.round)
    parts, received = load(site, initial_weights, memory, order)
    private = grant is not None and grant.private
    metrics = {} if private else _validation(site)
    if grant is None:
        loss = _train(site, memory, order, parts, objective)
    else:
        loss = _train_part(site, memory, order, parts, grant)
    own = take(site.model, parts.local)
    check_finite(own, "the trained model")
    delta = _delta(site, parts, received)
    metrics = {} if private else {**metrics, "train_loss": loss}
    update = SiteUpdate(site.name, order.round, delta, metrics, private=private)
    return SiteMemory(order.round, own), update


def train_own(
    site: Site, initial_weights: Weights, before: OwnModel, round: int, grant: Grant | None = None
) -> OwnModel:
    """Train one more round of the site's own model, with the same steps and seed as the joint one, without messages.

    The result has the bits of a run with the method `alone`. Arguments and errors as in `run_round`.

    Args:
        site: The hospital.
        initial_weights: Of the federation.
        before: The own model after the previous round.
        round: Number of the round.
        grant: What the site may do in a run with `dp.enabled`; else None.
    """
    memory, update = run_round(site, initial_weights, before.memory, before.order(round), grant)
    moved = {name: value.double() for name, value in update.delta.items()}
    applied = {name: value + before.offset[name].double() if before.offset else value for name, value in moved.items()}
    return OwnModel(to_half(applied), memory)


def own_head(site: Site, own: OwnModel) -> Weights:
    """Return the own model's head by shared names, float16."""
    head = {name: value for name, value in (own.memory.local or {}).items() if name.startswith(OF_HEAD)}
    return to_half({head_name(name, site.cohort.labels): value for name, value in head.items()})


def with_fresh_norms(site: Site, weights: Weights | None = None) -> Weights:
    """Return all floating-point tensors of `weights` (default: the model's), with norms refreshed on request."""
    load_into(site.model, weights or {})
    if site.config.train.refresh_norms and not site.config.dp.enabled:
        train, freeze = site.cohort.folds["train"], site.config.train.freeze
        refresh_norms(site.model, train, freeze=freeze, device=site.device, entry=site.entry)
    state = site.model.state_dict()
    return take(site.model, [name for name, value in state.items() if value.is_floating_point()])


def _delta(site: Site, parts: Parts, received: Weights) -> Weights:
    """Return trained minus received tensors by shared names, float16.

    Args:
        site: The hospital.
        parts: Names of the shared tensors.
        received: The received tensors.
    """
    state, delta = site.model.state_dict(), Weights()
    for name in parts.shared:
        wire, value = head_name(name, site.cohort.labels), state[name].cpu()
        delta[wire] = half_of_difference(value, received[name])
        try:
            check_finite({wire: delta[wire]}, "the rounded difference")
        except ModelError:
            check_finite({name: value}, "the trained model")
            raise
    return delta


def _train(site: Site, memory: SiteMemory, order: RoundOrder, parts: Parts, objective: Objective) -> float:
    """Train all tensors that are not frozen; return the mean loss."""
    train, settings = site.cohort.folds["train"], site.config.train
    if "centre.mean" in parts.local and not is_centred(memory):
        from cdtl_core.privacy.partial import set_centre

        set_centre(site.model, train, site.config, device=site.device, cache=site.cache)
    rng, epoch, entry = _rng(site, order), order.round - 1, site.entry
    fitted = fit(
        site.model, train, settings, epoch=epoch, rng=rng, device=site.device, objective=objective, entry=entry
    )
    return fitted.loss


def _train_part(site: Site, memory: SiteMemory, order: RoundOrder, parts: Parts, grant: Grant) -> float:
    """Train the part of the network for runs with differential privacy; no loss is returned.

    Raises:
        PrivacyError: The steps updated other tensors than those that would leave.
    """
    from cdtl_core.models.draws import SECRET_BYTES, keyed_draws

    # imported here: Opacus takes a second to load, and other runs do not need it
    from cdtl_core.privacy.partial import fit_part

    updated = fit_part(
        site.model,
        site.cohort.folds["train"],
        site.config,
        grant,
        centred=is_centred(memory),
        epoch=order.round - 1,
        device=site.device,
        cache=site.cache,
        # The coordinator knows the run's seed, so it seeds only an exempt site's draws, which may be repeated.
        draws=None if grant.private else keyed_draws(_rng(site, order).bytes(SECRET_BYTES)),
    )
    if not set(parts.shared) <= set(updated) <= {*parts.shared, *parts.local}:
        raise PrivacyError("what would leave is not what was trained with privacy: nothing is sent; this is a bug.")
    return float("nan")


def is_centred(memory: SiteMemory) -> bool:
    """Whether the site has computed the centre of its features."""
    return "centre.mean" in (memory.local or {})


def _rng(site: Site, order: RoundOrder) -> np.random.Generator:
    return np.random.default_rng([site.config.seed, zlib.crc32(site.name.encode()), order.round])


def _validation(site: Site) -> dict[str, float]:
    fold = site.cohort.folds["val"]
    log_probabilities = score(site.model, fold, device=site.device, entry=site.entry)
    losses = log_loss_by_patient(fold.labels, log_probabilities, fold.patients)
    value = auroc(fold.labels == site.positive, log_probabilities[:, site.positive])
    return {"val_loss": float(losses.mean()), "val_auroc": value}
