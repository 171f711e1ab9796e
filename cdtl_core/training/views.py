"""A fixed pool of views of each image: the unchanged image, and changes that depend only on its own content.

The views of an image do not depend on its fold, on other images or on the number of views.
"""

import hashlib
import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.config import AugmentConfig
from cdtl_core.data.pixels import Pixels
from cdtl_core.data.transforms import Augmentation, augment, to_unit

__all__ = ["Views", "draw_views", "image_ids", "one_channel"]

_known: dict[int, tuple[str, ...]] = {}


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
    plain, change, name = to_unit(own[None]), Augmentation(**views.change.model_dump()), _id(own)
    changed = [augment(plain, change, _generator(f"{views.seed}/{name}/{view}")) for view in range(1, 1 + views.count)]
    return torch.cat([plain, *changed])


def image_ids(pixels: Pixels) -> tuple[str, ...]:
    """Return one name per image of N C H W, from its content; a gray image has the name of its single channel.

    Names are computed once for an array, which must not change.
    """
    key = id(pixels)
    if key not in _known:
        weakref.finalize(pixels, _known.pop, key, None)
        _known[key] = tuple(_id(one_channel(image)) for image in pixels)
    return _known[key]


def one_channel(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return 1 H W of an image C H W with equal channels; other images are returned unchanged."""
    return image[:1] if (image == image[:1]).all() else image


def _id(image: npt.NDArray[np.uint8]) -> str:
    content = np.ascontiguousarray(image)
    return hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()[:32]


def _generator(text: str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
    return torch.Generator().manual_seed(seed)
