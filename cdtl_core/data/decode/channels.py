"""Colour channels that only repeat each other."""

import numpy as np
import numpy.typing as npt

__all__ = ["drop_equal_channels"]


def drop_equal_channels(colour: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """H W of an image H W 3 whose channels are equal, which makes it gray; a colour image as it is."""
    red, green, blue = colour[..., 0], colour[..., 1], colour[..., 2]
    is_gray = bool((red == green).all() and (red == blue).all())
    return np.ascontiguousarray(red if is_gray else colour)
