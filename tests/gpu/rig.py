"""Networks, images and settings that the tests on a GPU share."""

from typing import Any

import numpy as np
import pytest
import torch

from cdtl_core.config import (
    AugmentConfig,
    ModelConfig,
    TrainConfig,
)
from cdtl_core.data.cohort import Fold
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.model import Classifier, build_classifier
from cdtl_core.models.weights import load_into
from cdtl_core.training.device import Hardware, Where
from cdtl_core.training.train import fit

needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is false"),
]
"""Marks of every test in this folder."""

SIZE = 64
GPU = torch.device("cuda", 0)
EXACT = Hardware(GPU)
MIXED = Hardware(GPU, bfloat16=True)
STILL = AugmentConfig(noise=0)
"""Pixel noise is drawn by the device, so what is drawn after it differs; the first batch without it does not."""
CHANGED = AugmentConfig(invert=0.5, gamma=0.5, blur=0.5)
NO_CHANGE = AugmentConfig(flip=0, rotate_deg=0, translate=0, scale=0, brightness=0, contrast=0, noise=0)
BACKBONES = ["efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"]


def images_of(count: int = 24, size: int = SIZE, channels: int = 1) -> Fold:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    coarse = rng.integers(0, 200, (count, channels, 8, 8), np.uint8).repeat(size // 8, 2).repeat(size // 8, 3)
    fine = rng.integers(0, 40, coarse.shape, np.uint8)  # no flat places, which norms would magnify
    pixels = (coarse // 2 + fine + 40 * labels[:, None, None, None]).astype(np.uint8)
    return Fold(pixels, np.arange(count), labels.astype(np.int64), np.arange(count))


def network(backbone: str = "efficientnet_lite0", **more: Any) -> Classifier:
    """Return the same weights at each call, with a trained head."""
    torch.manual_seed(0)
    private = more.pop("frozen_norms", False)
    config = ModelConfig(backbone=backbone, weights="random", **{"dropout": 0.0, **more})
    model = build_classifier(config, 2, SIZE, frozen_norms=private)
    torch.manual_seed(1)
    if backbone == "efficientnet_lite0" and not private:
        load_into(model, build_initial_weights(config.model_copy(update={"weights": "imagenet"}), 0, SIZE))
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model


def trained(where: Where, config: TrainConfig, model: Classifier | None = None, **more: Any) -> Classifier:
    model = model or network()
    fit(model, more.pop("fold", images_of()), config, epoch=0, rng=np.random.default_rng(0), device=where, **more)
    return model


def gradient(model: Classifier) -> torch.Tensor:
    """Return the gradient of the last step as one vector on the CPU."""
    return torch.cat([p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The length of a difference as a share of the second vector's length."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def same_bits(one: Classifier, other: Classifier) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(value.cpu().equal(states[1][name].cpu()) for name, value in states[0].items())
