"""Features of a frozen backbone, computed once for each image and augmented view, and kept on disk.

What is kept is float16: a feature of unit length loses less than a thousandth.
"""

from pathlib import Path

import numpy as np
import torch

from cdtl_core.config import AugmentConfig
from cdtl_core.imaging.cohort import Fold
from cdtl_core.imaging.transforms import normalise
from cdtl_core.learning.kept import Half, keep, key_of
from cdtl_core.learning.model import Classifier
from cdtl_core.learning.views import Views

__all__ = ["Features", "feature_views"]

Features = Half


def feature_views(
    model: Classifier,
    fold: Fold,
    *,
    views: int,
    change: AugmentConfig,
    seed: int,
    device: torch.device,
    cache: Path | None = None,
) -> Features:
    """Features N V D of a fold's images, in its order: the image as it is, then `views` changed ones.

    Args:
        model: Its backbone is run as it is; a backbone that is trained would make what is kept untrue.
        fold: The images.
        views: Changed views beside the plain one, V - 1.
        change: How a view is changed.
        seed: Of the changes.
        device: Where to compute.
        cache: Folder to keep them in; none: they are not kept.

    Raises:
        CheckpointError, ModelError: As `keep`.
    """
    model.to(device).eval()
    pool = Views(views, seed, change)
    said = f"features/{model.levels}/{pool}/{model.mean}/{model.std}"
    names = [name for name, value in model.state_dict().items() if name.startswith("backbone.") and value.ndim]

    def compute(images: torch.Tensor) -> torch.Tensor:
        batch = normalise(images, model.mean, model.std).to(device, memory_format=torch.channels_last)
        with torch.inference_mode():
            return model.features(batch)

    kept = keep(fold, pool, compute, key=key_of(model, names, said), cache=cache)
    return np.stack([kept(row) for row in range(fold.num_images)])
