"""A fixed pool of views of each image: as it is, and changed in ways that depend on nothing but its own content.

Neither the fold an image is in, nor its neighbours, nor how many views there are changes any of its views.
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
    """What the pool of an image is.

    Attributes:
        count: Changed views beside the plain one: the pool is V = 1 + count.
        seed: Of the changes; not the run's, so that runs of several seeds can share what was computed of a view.
        change: How a view is changed.
    """

    count: int
    seed: int
    change: AugmentConfig


def draw_views(image: npt.NDArray[np.uint8], views: Views) -> torch.Tensor:
    """The pool V C H W in [0, 1] of an image C H W: first as it is, then changed; three equal channels become one."""
    own = one_channel(image).copy()  # of a file mapped read-only
    plain, change, name = to_unit(own[None]), Augmentation(**views.change.model_dump()), _id(own)
    changed = [augment(plain, change, _generator(f"{views.seed}/{name}/{view}")) for view in range(1, 1 + views.count)]
    return torch.cat([plain, *changed])


def image_ids(pixels: Pixels) -> tuple[str, ...]:
    """One name per image N C H W, of its content; gray images have the name of their one channel.

    Names are found once for an array, which must not change.
    """
    key = id(pixels)
    if key not in _known:
        weakref.finalize(pixels, _known.pop, key, None)
        _known[key] = tuple(_id(one_channel(image)) for image in pixels)
    return _known[key]


def one_channel(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """An image C H W; 1 H W of it where all its channels are equal."""
    return image[:1] if (image == image[:1]).all() else image


def _id(image: npt.NDArray[np.uint8]) -> str:
    content = np.ascontiguousarray(image)
    return hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()[:32]


def _generator(text: str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
    return torch.Generator().manual_seed(seed)
