"""Features of a frozen backbone, computed once for each image and augmented view and stored in the feature cache.

They are stored as float16: a feature of unit length changes by less than a thousandth.
"""

from pathlib import Path

import numpy as np
import torch

from cdtl_core.config import AugmentConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.data.transforms import normalise
from cdtl_core.models.model import Classifier
from cdtl_core.models.weights import take
from cdtl_core.training.device import Where, computing, hardware_of, send
from cdtl_core.training.feature_cache import Half, Kept, keep, key_of
from cdtl_core.training.views import Views

__all__ = ["Features", "cached_features", "feature_views"]

Features = Half


def feature_views(
    model: Classifier,
    fold: Fold,
    *,
    views: int,
    change: AugmentConfig,
    seed: int,
    device: Where,
    cache: Path | None = None,
) -> Features:
    """Return features N V D of a fold's images, in its order: the unchanged image first, then `views` changed ones.

    Args:
        model: Its backbone must be frozen; otherwise the stored features would be outdated.
        fold: The images.
        views: Number of changed views, V - 1.
        change: How a view is changed.
        seed: Seed of the changes.
        device: Where to compute.
        cache: Folder for the features; None: they are not stored.

    Raises:
        CheckpointError, ModelError: As `keep`.
    """
    kept = cached_features(model, fold, Views(views, seed, change), device=device, cache=cache)
    return np.stack([kept(row) for row in range(fold.num_images)])


def cached_features(model: Classifier, fold: Fold, pool: Views, *, device: Where, cache: Path | None = None) -> Kept:
    """Return a function from a row of the fold to its features V D, computed on demand.

    Args:
        model: Its backbone must be frozen. Only the backbone is moved to the device.
        fold: The images.
        pool: The views.
        device: Where to compute.
        cache: Folder for the features; None: they are not stored.

    Raises:
        CheckpointError, ModelError: As `keep`.
    """
    said = f"features/{model.name}/{model.levels}/{model.regions}/{pool}/{model.mean}/{model.std}"
    hardware = hardware_of(device).exact
    names = [name for name, value in model.state_dict().items() if name.startswith("backbone.") and value.ndim]

    def compute(images: torch.Tensor) -> torch.Tensor:
        model.backbone.to(hardware.device).eval()
        batch = normalise(send(images, hardware.device), model.mean, model.std)
        batch = batch.to(hardware.device, memory_format=torch.channels_last)
        with torch.inference_mode(), computing(hardware):
            return model.features(batch)

    key = key_of(take(model, names), said, hardware.device)
    return keep(fold, pool, compute, key=key, cache=cache, device=hardware.device)
