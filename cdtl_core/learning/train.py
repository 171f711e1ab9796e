"""Fitting a classifier for a number of steps, and scoring with it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from cdtl_core.config import TrainConfig
from cdtl_core.imaging.cohort import Fold
from cdtl_core.imaging.transforms import Augmentation, augment, normalise, to_unit
from cdtl_core.learning.device import autocast
from cdtl_core.learning.model import Classifier, set_training
from cdtl_core.learning.weights import load_into
from cdtl_core.progress import report

__all__ = ["FitReport", "fit", "learning_rate", "refresh_norms", "score"]

Floats = npt.NDArray[np.float64]
_SCORE_BATCH = 64


@dataclass(frozen=True)
class FitReport:
    """What a fit says of itself: mean training loss over its steps (NaN without steps), steps taken."""

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
) -> FitReport:
    """Train `model` in place for `config.steps` steps of AdamW with a fresh optimizer.

    Args:
        model: Changed in place; the tensors of its frozen stages are not.
        fold: The training images.
        config: Steps, batch size, learning rate, augmentation.
        epoch: Position in the run for the learning rate: the round, from 0, counted across rounds.
        rng: The only source of randomness (order, augmentation, dropout).
        device: Where to compute.

    Source: eqs. (4)-(8), Inbaraj et al. 2025. Differs: cross-entropy also for two classes; AdamW.
    """
    set_training(model, freeze=config.freeze)
    model.to(device)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True) if config.ema else None
    optimizer = _optimizer(model, config, epoch)
    weight = _class_weights(fold.labels, model.head.out_features).to(device) if config.class_weighted else None
    change = Augmentation(**config.augment.model_dump())
    images_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
    losses = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(rng.integers(2**62)))
        for step, rows in enumerate(_batches(fold.num_images, config, rng), start=1):
            images = _device_batch(model, augment(to_unit(fold.pixels[fold.rows[rows]]), change, images_rng), device)
            with autocast(device):
                loss = cross_entropy(model(images), torch.from_numpy(fold.labels[rows]).to(device), weight)
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
    """``lr / (1 + lr_decay * epoch)``; an epoch is a round, since all sites take equally many steps in it.

    Source: eq. (7), Inbaraj et al. 2025.
    """
    return config.lr / (1 + config.lr_decay * epoch)


def score(model: Classifier, fold: Fold, *, device: torch.device) -> Floats:
    """Log-probabilities N K of a fold's images, in its order."""
    model.to(device).eval()
    parts = []
    with torch.inference_mode(), autocast(device):
        for images in _plain_batches(model, fold, device):
            parts.append(model(images).float().log_softmax(dim=1).cpu())
    return torch.cat(parts).numpy().astype(np.float64)


def refresh_norms(model: Classifier, fold: Fold, *, device: torch.device) -> None:
    """Recompute the running statistics of batch norms for the weights now in the model, from the site's own images.

    A blended backbone's activations differ from those that the site's statistics were collected with.
    """
    model.to(device)
    with torch.random.fork_rng(devices=[]), autocast(device):
        update_bn(_plain_batches(model, fold, device), model)


def _optimizer(model: Classifier, config: TrainConfig, epoch: int) -> torch.optim.Optimizer:
    lr = learning_rate(config, epoch)
    groups = [
        {"params": [p for p in model.backbone.parameters() if p.requires_grad], "lr": lr},
        {"params": list(model.head.parameters()), "lr": lr * config.head_lr_factor},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=config.weight_decay)


def _class_weights(labels: npt.NDArray[np.int64], num_classes: int) -> torch.Tensor:
    counts = np.bincount(labels, minlength=num_classes)
    return torch.from_numpy(len(labels) / (num_classes * np.maximum(counts, 1))).float()


def _batches(count: int, config: TrainConfig, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of `config.steps` batches: shuffled passes over all images, one after the other."""
    need = config.steps * config.batch_size
    passes = [rng.permutation(count) for _ in range(-(-need // count))] or [np.empty(0, np.int64)]
    order = np.concatenate(passes)[:need]
    yield from order.reshape(config.steps, config.batch_size)


def _plain_batches(model: Classifier, fold: Fold, device: torch.device) -> Iterator[torch.Tensor]:
    for start in range(0, fold.num_images, _SCORE_BATCH):
        yield _device_batch(model, to_unit(fold.pixels[fold.rows[start : start + _SCORE_BATCH]]), device)


def _device_batch(model: Classifier, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    return normalise(images, model.mean, model.std).to(device, memory_format=torch.channels_last)
