"""Trains a classifier for a number of steps, and scores images with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cdtl_core.config import TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.model import Classifier, set_training
from cdtl_core.models.weights import load_into
from cdtl_core.system.progress import report
from cdtl_core.training.device import autocast
from cdtl_core.training.inputs import Entry, Network, changed_inputs, entering, plain_inputs
from cdtl_core.training.linear_head import batch_rows, fit_linear_head, is_linear
from cdtl_core.training.objective import PLAIN, Objective

__all__ = ["FitReport", "class_weights", "fit", "learning_rate", "on_device", "refresh_norms", "score"]

Floats = npt.NDArray[np.float64]
_SCORE_BATCH = 64


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
    device: torch.device,
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
        device: Where to compute.
        objective: What is minimised.
        entry: Where inputs enter the network.

    Raises:
        CheckpointError: The output of the frozen stages cannot be stored.
        ModelError: It exceeds float16's range.

    Source: eqs. (4)-(8), Inbaraj et al. 2025. Differs: cross-entropy also for two classes; AdamW.
    """
    set_training(model, freeze=config.freeze)
    model.to(device)
    averaged = _ema_of(model, config.ema)
    weight = class_weights(fold.labels, model.head.out_features).to(device) if config.class_weighted else None
    losses: list[torch.Tensor] = []
    if entry is not None and is_linear(model, entry, objective) and averaged is None:
        with _seeded_dropout(rng, device):
            lr = learning_rate(config, epoch) * config.head_lr_factor
            found = fit_linear_head(
                model, fold, config, lr=lr, weight=weight, rng=rng, entry=entry, objective=objective
            )
        return FitReport(float(np.mean(found)) if found else float("nan"), len(found))
    optimizer = _optimizer(model, config, epoch)
    with entering(model, entry), _seeded_dropout(rng, device):
        batches = _training_batches(model, fold, config, rng, device, entry)
        for step, (images, labels) in enumerate(batches, start=1):
            with autocast(device):
                loss = objective.loss(model, images, labels, weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
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


def score(model: Network, fold: Fold, *, device: torch.device, entry: Entry | None = None) -> Floats:
    """Return log-probabilities N K of a fold's images, in its order.

    Args:
        model: The network.
        fold: The images.
        device: Where to compute.
        entry: Where inputs enter the network.
    """
    model.to(device)
    cast(nn.Module, model).eval()
    inputs, rows = plain_inputs(model, fold, entry), np.arange(fold.num_images)
    with torch.inference_mode(), autocast(device), entering(model, entry):
        batches = (on_device(inputs(rows[at : at + _SCORE_BATCH]), device) for at in range(0, len(rows), _SCORE_BATCH))
        parts = [model(images).float().log_softmax(dim=1).cpu() for images in batches]
    return torch.cat(parts).numpy().astype(np.float64)


def refresh_norms(
    model: Classifier, fold: Fold, *, freeze: int, device: torch.device, entry: Entry | None = None
) -> None:
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
    model.to(device)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    momenta = [norm.momentum for norm in norms]
    order, inputs = np.random.default_rng(0).permutation(fold.num_images), plain_inputs(model, fold, entry)
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
        with torch.no_grad(), torch.random.fork_rng(devices=[]), autocast(device), entering(model, entry):
            for rows in np.array_split(order, -(-fold.num_images // _SCORE_BATCH)):
                model.features(on_device(inputs(rows), device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def class_weights(labels: npt.NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Return one weight per class, K: inverse to its number of images, 1 if all classes have the same number."""
    counts = np.bincount(labels, minlength=num_classes)
    return torch.from_numpy(len(labels) / (num_classes * np.maximum(counts, 1))).float()


def on_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return inputs B ... on the network's device; B C H W in the layout of its weights."""
    return batch.to(device, memory_format=torch.channels_last) if batch.ndim == 4 else batch.to(device)


def _optimizer(model: Classifier, config: TrainConfig, epoch: int) -> torch.optim.Optimizer:
    lr = learning_rate(config, epoch)
    groups = [
        {"params": [p for p in model.backbone.parameters() if p.requires_grad], "lr": lr},
        {"params": list(model.head.parameters()), "lr": lr * config.head_lr_factor},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=config.weight_decay)


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
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also queues a call for a GPU, and keeps it
        else:
            torch.manual_seed(seed)
        yield


def _training_batches(
    model: Classifier,
    fold: Fold,
    config: TrainConfig,
    rng: np.random.Generator,
    device: torch.device,
    entry: Entry | None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `config.steps` changed batches: consecutive shuffled passes over all images."""
    inputs = changed_inputs(model, fold, config.augment, rng, entry)
    for rows in batch_rows(fold.num_images, config, rng):
        yield on_device(inputs(rows), device), torch.from_numpy(fold.labels[rows]).to(device)
