"""A fixed pool of views of each image: the unchanged image, and changes that depend only on its own content.

The views of an image do not depend on its fold, on other images or on the number of views.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.config import AugmentConfig
from cdtl_core.data.pixels import content_id, one_channel
from cdtl_core.data.transforms import Augmentation, augment, to_unit

__all__ = ["Views", "draw_views"]


@dataclass(frozen=True)
class Views:
    """The pool of views of an image.

    Attributes:
        count: Number of changed views; the pool has V = 1 + count.
        seed: Seed of the changes. It is not the run's seed, so runs with different seeds share computed views.
        change: How a view is changed.
    """

    count: int
    seed: int
    change: AugmentConfig


def draw_views(image: npt.NDArray[np.uint8], views: Views) -> torch.Tensor:
    """Return the pool V C H W in [0, 1] of an image C H W, unchanged first; three equal channels become one."""
    own = one_channel(image).copy()  # from a file that is mapped read-only
    plain, change, name = to_unit(own[None]), Augmentation(**views.change.model_dump()), content_id(own)
    changed = [augment(plain, change, _generator(f"{views.seed}/{name}/{view}")) for view in range(1, 1 + views.count)]
    return torch.cat([plain, *changed])


def _generator(text: str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
    return torch.Generator().manual_seed(seed)
