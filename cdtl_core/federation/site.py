"""A hospital's part: describe itself, train one round, and at the end choose the model it will use.

State in, state out: `run_round(site, theta0, memory, order) -> (memory, update)`. Nothing here knows of a network.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cdtl_core.config import RunConfig
from cdtl_core.federation.label_map import head_name
from cdtl_core.imaging.cohort import Cohort
from cdtl_core.learning.metrics import auroc, log_loss_by_patient
from cdtl_core.learning.model import Classifier, Parts, frozen_stages, parts_of
from cdtl_core.learning.train import fit, score
from cdtl_core.learning.weights import Weights, check_finite, load_into, take, to_half
from cdtl_core.progress import report

__all__ = ["RoundOrder", "Site", "SiteMemory", "SiteUpdate", "load_round", "run_round"]


@dataclass(frozen=True)
class Site:
    """One hospital, ready to train.

    Attributes:
        name: Unique in the federation.
        modality: Of all its images.
        positive: Index of the positive label within the cohort's labels.
        cohort: Its images, split.
        config: What the federation agreed on.
        model: A classifier that is overwritten at each use.
        device: Where to compute.
    """

    name: str
    modality: str
    positive: int
    cohort: Cohort
    config: RunConfig
    model: Classifier
    device: torch.device


@dataclass(frozen=True)
class SiteMemory:
    """What a site keeps to itself between rounds: after which round, its norms, and its head if that is not shared."""

    round: int = 0
    local: Weights | None = None


@dataclass(frozen=True)
class RoundOrder:
    """What the server asks for: the round (from 1), the modality's drift from theta0, whether the head is shared."""

    round: int
    drift: Weights
    share_head: bool


@dataclass(frozen=True)
class SiteUpdate:
    """What a site answers, and all it answers: there is no field for norms, a local head, images or their names.

    Attributes:
        site: Its name.
        round: The round it trained.
        num_patients: Patients it trained on.
        delta: Shared tensors, local less received, float16.
        metrics: Scalars: training loss, and how the received weights did on its validation patients.
    """

    site: str
    round: int
    num_patients: int
    delta: Weights
    metrics: Mapping[str, float]


def run_round(site: Site, theta0: Weights, memory: SiteMemory, order: RoundOrder) -> tuple[SiteMemory, SiteUpdate]:
    """Score what was received, train on it, and answer the difference.

    Raises:
        ModelError: The weights do not fit, or training did not stay finite.
    """
    report(site=site.name, round=order.round)
    parts = load_round(site, theta0, memory, order)
    received = take(site.model, parts.shared)
    metrics = _validation(site)
    train = site.cohort.folds["train"]
    rng = np.random.default_rng([site.config.seed, zlib.crc32(site.name.encode()), order.round])
    fitted = fit(site.model, train, site.config.train, epoch=order.round - 1, rng=rng, device=site.device)
    trained = take(site.model, parts.shared + parts.local)
    check_finite(trained, "the trained model")
    delta = to_half({head_name(name, site.cohort.labels): trained[name] - received[name] for name in parts.shared})
    update = SiteUpdate(site.name, order.round, train.num_patients, delta, {**metrics, "train_loss": fitted.loss})
    return SiteMemory(order.round, {name: trained[name] for name in parts.local}), update


def load_round(site: Site, theta0: Weights, memory: SiteMemory, order: RoundOrder) -> Parts:
    """Put theta0 plus drift plus the site's own tensors into its model; returns what is shared and what is local.

    Raises:
        ModelError: The weights do not fit the model.
    """
    parts = parts_of(site.model, freeze=frozen_stages(site.model, site.config), share_head=order.share_head)
    own = dict(memory.local or {})
    for name in ("head.weight", "head.bias"):
        own.setdefault(name, torch.zeros_like(site.model.state_dict()[name], device="cpu"))
    load_into(site.model, {**theta0, **own})
    names = {head_name(name, site.cohort.labels): name for name in parts.shared}
    start = take(site.model, parts.shared)
    drift = {names[wire]: value for wire, value in order.drift.items() if wire in names}
    load_into(site.model, {name: start[name] + value.to(torch.float32) for name, value in drift.items()})
    return parts


def _validation(site: Site) -> dict[str, float]:
    fold = site.cohort.folds["val"]
    log_probabilities = score(site.model, fold, device=site.device)
    losses = log_loss_by_patient(fold.labels, log_probabilities, fold.patients)
    value = auroc(fold.labels == site.positive, log_probabilities[:, site.positive])
    return {"val_loss": float(losses.mean()), "val_auroc": value}
