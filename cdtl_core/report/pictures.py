"""Images of patients with Grad-CAM, for the pages of a site and for its own PACS only."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["data_url", "seen", "side_by_side", "where_strongest"]

_GAP = 4


def seen(pixels: npt.NDArray[np.uint8], *, gray: bool) -> npt.NDArray[np.uint8]:
    """Return an image C H W as a person looks at it: of a slice with its neighbours as channels the slice itself.

    Args:
        pixels: The image.
        gray: Whether images of its modality are gray.
    """
    return pixels[1:2] if gray and len(pixels) == 3 else pixels


def side_by_side(pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32] | None, *, side: int) -> Image.Image:
    """Return image and overlay side by side.

    Args:
        pixels: The image, C H W.
        heat: Grad-CAM, H W; None: only the image.
        side: Side of each, in pixels.
    """
    plain_image = np.repeat(pixels, 3, axis=0) if pixels.shape[0] == 1 else pixels
    base = plain_image.transpose(1, 2, 0).astype(np.float64)
    panels: Sequence[npt.NDArray[np.float64]] = [base]
    if heat is not None:
        from matplotlib import colormaps

        colour = colormaps["inferno"](heat)[..., :3] * 255
        weight = 0.75 * heat[..., None].astype(np.float64)
        gray = base.mean(axis=2, keepdims=True)
        panels = [base, gray * (1 - weight) * 0.8 + colour * weight]
    images = [Image.fromarray(panel.clip(0, 255).astype(np.uint8)).resize((side, side)) for panel in panels]
    whole = Image.new("RGB", (side * len(images) + _GAP * (len(images) - 1), side))
    for place, image in enumerate(images):
        whole.paste(image, (place * (side + _GAP), 0))
    return whole


def data_url(pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32] | None, *, side: int) -> str:
    """Return image and overlay side by side, as a JPEG in a data URL; arguments as in `side_by_side`."""
    buffer = io.BytesIO()
    side_by_side(pixels, heat, side=side).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def where_strongest(heat: npt.NDArray[np.float32]) -> str:
    """Describe in words in which ninth of the image the map is strongest."""
    rows, columns = (np.array_split(np.arange(size), 3) for size in heat.shape)
    means = np.array([[heat[np.ix_(row, column)].mean() for column in columns] for row in rows])
    row, column = (int(place) for place in np.unravel_index(means.argmax(), means.shape))
    words = [("upper", "middle", "lower")[row], ("left", "centre", "right")[column]]
    return "in the centre" if (row, column) == (1, 1) else f"at the {' '.join(words)}"
