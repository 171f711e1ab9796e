"""Detection of colour images whose channels are equal."""

import numpy as np
import numpy.typing as npt

__all__ = ["drop_equal_channels"]


def drop_equal_channels(colour: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return H W of an image H W 3 with equal channels; a colour image is returned unchanged."""
    red, green, blue = colour[..., 0], colour[..., 1], colour[..., 2]
    is_gray = bool((red == green).all() and (red == blue).all())
    return np.ascontiguousarray(red if is_gray else colour)
