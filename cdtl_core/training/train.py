"""Trains a classifier for a number of steps, and refreshes its norms."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cdtl_core.config import TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.exams import Batch
from cdtl_core.models.model import Classifier, set_training
from cdtl_core.models.weights import load_into
from cdtl_core.system.progress import report
from cdtl_core.training.adamw import AdamW, Group
from cdtl_core.training.batches import plain_batches, training_batches
from cdtl_core.training.device import Hardware, Where, autocast, compiled, computing, prepared
from cdtl_core.training.inputs import Entry, entered
from cdtl_core.training.linear_head import fit_linear_head, is_linear
from cdtl_core.training.objective import LOSSES, PLAIN, Objective
from cdtl_core.training.parts import Parts
from cdtl_core.training.scoring import SCORE_BATCH, place_network

__all__ = ["FitReport", "class_weights", "fit", "learning_rate", "refresh_norms"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FitReport:
    """Result of a training: mean training loss over its steps (NaN without steps), and number of steps."""

    loss: float
    steps: int


def fit(
    model: Classifier,
    fold: Fold,
    config: TrainConfig,
    *,
    epoch: int,
    rng: np.random.Generator,
    device: Where,
    objective: Objective = PLAIN,
    entry: Entry | None = None,
) -> FitReport:
    """Train `model` in place for `config.steps` steps of AdamW with a fresh optimizer.

    Args:
        model: Changed in place, except its frozen stages.
        fold: The training images.
        config: Steps, batch size, learning rate, augmentation.
        epoch: Position in the run for the learning rate: the round, counted from 0.
        rng: The only source of randomness (order, augmentation, dropout).
        device: Where to compute, and how. A batch that is too large for a GPU's memory is computed in parts whose
            gradients are added up. The step equals that of the whole batch, except that batch norms use the
            statistics of each part.
        objective: What is minimised, with the loss of `config.loss`.
        entry: Where inputs enter the network.

    Raises:
        ConfigError: A GPU's memory is too small for two images, or the loss is unknown.
        CheckpointError: The output of the frozen stages cannot be stored.
        ModelError: It exceeds float16's range.

    Source: eqs. (4)-(8), Inbaraj et al. 2025. Differs: cross-entropy also for two classes; AdamW.
    """
    set_training(model, freeze=config.freeze)
    hardware, objective = place_network(model, entry, device), objective.using(LOSSES.find(config.loss))
    averaged = _ema_of(model, config.ema)
    weight = class_weights(fold.labels, model.head.out_features).to(hardware.device) if config.class_weighted else None
    losses: list[torch.Tensor] = []
    linear = averaged is None and is_linear(model, entry, objective, has_several=fold.has_several)
    if entry is not None and linear:
        with _seeded_dropout(rng, hardware.device):
            lr = learning_rate(config, epoch) * config.head_lr_factor
            found = fit_linear_head(
                model, fold, config, lr=lr, weight=weight, rng=rng, entry=entry, objective=objective
            )
        return FitReport(float(np.mean(found)) if found else float("nan"), len(found))
    optimizer, parts = _optimizer(model, config, epoch), Parts("a training batch", least=2)
    network = entered(model, entry)

    def batch_loss(images: Batch, labels: torch.Tensor) -> torch.Tensor:
        return objective.loss(network, images, labels, weight)

    with _seeded_dropout(rng, hardware.device), _settings(model, hardware, entry):
        batches = training_batches(model, fold, config, rng, hardware, entry)
        for step, (images, labels) in enumerate(batches, start=1):
            gradients = partial(_gradients, optimizer, batch_loss, hardware, images, labels, weight)
            losses.append(parts.run(len(labels), gradients))
            optimizer.step()
            if averaged is not None:
                averaged.update_parameters(model)
            report(step=step, steps=config.steps)
    if averaged is not None:
        load_into(model, averaged.module.state_dict())
    return FitReport(float(torch.stack(losses).mean()) if losses else float("nan"), len(losses))


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Return ``lr / (1 + lr_decay * epoch)``; an epoch is a round, since all sites take the same number of steps in it.

    Source: eq. (7), Inbaraj et al. 2025.
    """
    return config.lr / (1 + config.lr_decay * epoch)


def refresh_norms(model: Classifier, fold: Fold, *, freeze: int, device: Where, entry: Entry | None = None) -> None:
    """Recompute the running statistics of batch norms for the model's current weights, from the site's own images.

    A blended backbone's activations differ from those behind the site's statistics. Images come in shuffled batches of
    equal size, so that the plain mean over batches is that of all images. Frozen stages keep the initial weights'
    statistics.

    Args:
        model: Changed in place.
        fold: The site's images.
        freeze: Number of frozen stages.
        device: Where to compute.
        entry: Where inputs enter the network.
    """
    if fold.num_images < 2:
        return
    set_training(model, freeze=freeze)
    hardware = place_network(model, entry, device)
    network = entered(model, entry)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    momenta = [norm.momentum for norm in norms]
    order = np.random.default_rng(0).permutation(fold.num_images)

    def collect(cut: Sequence[slice]) -> None:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
        batches = np.array_split(order, -(-fold.num_images // SCORE_BATCH) * len(cut))
        for (images,) in plain_batches(model, fold, batches, hardware, entry):
            network.features(images)

    try:
        with torch.no_grad(), _forked(hardware.device), computing(hardware):
            Parts("images for the norms", least=2).run(SCORE_BATCH, collect)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def class_weights(labels: npt.NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Return one weight per class, K: inverse to its number of units, 1 if all classes have the same number."""
    counts = np.bincount(labels, minlength=num_classes)
    return torch.from_numpy(len(labels) / (num_classes * np.maximum(counts, 1))).float()


@contextmanager
def _settings(model: Classifier, hardware: Hardware, entry: Entry | None) -> Iterator[None]:
    """Apply the training settings inside the block.

    Only a backbone that runs from its first to its last layer is compiled: compiled code ignores hooks and skipped
    stages.
    """
    whole = entry is None and not model.levels
    with prepared(hardware), compiled(model.backbone, hardware.compile and whole):
        yield


def _gradients(
    optimizer: AdamW,
    loss_of: Callable[[Batch, torch.Tensor], torch.Tensor],
    hardware: Hardware,
    images: Batch,
    labels: torch.Tensor,
    weight: torch.Tensor | None,
    cut: Sequence[slice],
) -> torch.Tensor:
    """Compute a batch's gradients as a sum over its parts, and return the batch's loss.

    Args:
        optimizer: Its parameters get the gradients.
        loss_of: From images and labels to their mean loss, weighted by class.
        hardware: The precision.
        images: Inputs B ..., or those of B exams.
        labels: Labels B.
        weight: Class weights K, or None.
        cut: The parts of the batch; each counts with the weight of its labels.
    """
    optimizer.zero_grad()
    if len(cut) == 1:
        with autocast(hardware):
            loss = loss_of(images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    each = torch.ones_like(labels, dtype=torch.float32) if weight is None else weight[labels]
    total = torch.zeros((), device=images.device)
    for part in cut:
        with autocast(hardware):
            loss = loss_of(images[part], labels[part]) * (each[part].sum() / each.sum())
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _optimizer(model: Classifier, config: TrainConfig, epoch: int) -> AdamW:
    lr = learning_rate(config, epoch)
    backbone = Group([p for p in model.backbone.parameters() if p.requires_grad], lr)
    head = [*model.head.parameters(), *model.adapter.parameters(), *model.pooling.parameters()]
    return AdamW([backbone, Group(head, lr * config.head_lr_factor)], config.weight_decay)


def _ema_of(model: Classifier, decay: float) -> AveragedModel | None:
    """Return the running average of eq. (6), or None if it is switched off."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


@contextmanager
def _seeded_dropout(rng: np.random.Generator, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator, which dropout uses, for the block, and restore it afterwards."""
    seed = int(rng.integers(2**62))
    with _forked(device):
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also queues a call for a GPU, and keeps it
        else:
            torch.manual_seed(seed)
        yield


def _forked(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that restores torch's global generators of the CPU and of a GPU."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
