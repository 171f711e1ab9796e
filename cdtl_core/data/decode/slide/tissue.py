"""Where a slide has tissue: coloured and not black, on an overview of at most 2048 pixels."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

__all__ = ["OVERVIEW_PX", "covered", "tissue_mask"]

Mask = npt.NDArray[np.bool_]
OVERVIEW_PX = 2048  # longer side; a tile of 128 micrometres is then 3 pixels or more of a slide of 80 mm
_LEAST, _MOST = 12, 40  # levels of 255: glass is below, stained tissue above, even if a slide is nearly full or empty
_DARK = 40  # levels: pen, dust and the slide's edge are darker
_SPECK = 5  # pixels


def tissue_mask(overview: npt.NDArray[np.uint8]) -> Mask:
    """Return where an overview H W 3 shows tissue, H W.

    Tissue has colour: its channels differ by more than Otsu's threshold, kept between 12 and 40 levels of 255. Specks
    of fewer than 5 pixels across are removed.
    """
    brightest = overview.max(axis=2)
    chroma = brightest - overview.min(axis=2)
    mask = (chroma > min(max(_otsu(chroma), _LEAST), _MOST)) & (brightest > _DARK)
    smooth = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MedianFilter(_SPECK))
    return np.asarray(smooth) > 0


def covered(mask: Mask, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return which share of each box is tissue.

    Args:
        mask: H W.
        boxes: Left, top, right and bottom in pixels of the mask, N 4; each counts as one pixel at least.
    """
    sums = np.pad(mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    height, width = mask.shape
    left, top = (np.clip(np.floor(boxes[:, at]).astype(int), 0, side - 1) for at, side in ((0, width), (1, height)))
    right = np.clip(np.rint(boxes[:, 2]).astype(int), left + 1, width)
    bottom = np.clip(np.rint(boxes[:, 3]).astype(int), top + 1, height)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    shares: npt.NDArray[np.float64] = inside / ((right - left) * (bottom - top))
    return shares


def _otsu(values: npt.NDArray[np.uint8]) -> int:
    """Return the level that separates the values into the two most distinct groups."""
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below = counts.cumsum()
    weighted = (counts * np.arange(256)).cumsum()
    with np.errstate(all="ignore"):
        between = (weighted[-1] * below - weighted * below[-1]) ** 2 / (below * (below[-1] - below))
    return int(np.nanargmax(np.nan_to_num(between, posinf=0.0)))
