"""One image file to an array of uint8."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cdtl_core.errors import DataError

__all__ = ["fit_square", "read_image"]


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read a PNG, JPEG, TIFF or BMP file.

    Returns:
        H W for a gray image (also when stored as equal colour channels), H W 3 for a colour one; 16-bit values are
        scaled from the full range of their type to 0-255.

    Raises:
        DataError: The file is missing, unreadable or truncated.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _as_uint8(image)
    except FileNotFoundError:
        raise DataError(f"the image {path} does not exist: correct the manifest or restore the file.") from None
    except UnidentifiedImageError:
        raise DataError(
            f"the image {path} is in no format that can be read: convert it to PNG, JPEG or TIFF."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"the image {path} cannot be decoded ({error}): restore the file or leave it out.") from None


def fit_square(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize an image (H W or H W 3) to `size` x `size` pixels: bilinear, antialiased, aspect kept, padded with black.

    Source: eqs. (3) and (9), Inbaraj et al. 2025. Differs: keeps the aspect ratio by padding.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square = np.zeros((size, size, *image.shape[2:]), np.uint8)
    square[top : top + new_height, left : left + new_width] = small
    return square


def _as_uint8(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1.0)
        return np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)
    if image.mode in {"1", "L", "LA"}:
        return np.asarray(image.convert("L"))
    colour = np.asarray(image.convert("RGB"))
    gray = bool((colour[..., 0] == colour[..., 1]).all() and (colour[..., 0] == colour[..., 2]).all())
    return np.ascontiguousarray(colour[..., 0]) if gray else colour
