"""Reads one image file of any format as a uint8 array."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdtl_core.data.decode.formats import is_dicom, is_tiff
from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.raster import read_raster
from cdtl_core.data.decode.reader import read_apart
from cdtl_core.data.fault import UnreadableError, refuse
from cdtl_core.data.frame import Frame

__all__ = ["fit_square", "read_image", "read_picture"]


def read_picture(path: Path, frame: Frame = "middle") -> Picture:
    """Read a DICOM, PNG, JPEG, TIFF, BMP or PNM file; the format is known by its content, not its name.

    Args:
        path: The file.
        frame: Of a DICOM or TIFF file with several: ``first``, ``middle``, ``last`` or an index from 0.

    Raises:
        DataError: The file is missing, in no known format, damaged, too large, holds no image or not that frame.
    """
    try:
        if path.exists() and not path.is_file():
            raise refuse(path, UnreadableError("is no file", "correct its path"))
        with open(path, "rb") as file:
            head = file.read(132)
    except FileNotFoundError:
        raise refuse(path, UnreadableError("does not exist", "correct its path or restore the file")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is no path"
        raise refuse(path, UnreadableError(f"cannot be read ({reason})")) from None
    if not head:
        raise refuse(path, UnreadableError("is empty"))
    # libtiff writes its complaints to stderr and DICOM codecs may abort; the separate process confines both
    return read_apart(path, frame) if is_dicom(head) or is_tiff(head) else read_raster(path, frame)


def read_image(path: Path, frame: Frame = "middle") -> npt.NDArray[np.uint8]:
    """Return the pixels of `read_picture`: H W for a gray image (also with equal colour channels), else H W 3.

    Raises:
        DataError: As `read_picture`.
    """
    return read_picture(path, frame).pixels


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
