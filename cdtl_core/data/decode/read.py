"""Reads image files of any format as uint8 arrays: one image, or all that a file or folder holds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdtl_core.data.decode.formats import HEAD_BYTES, is_dicom, is_nifti, is_tiff
from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.raster import read_raster
from cdtl_core.data.decode.reader import read_apart, stream_apart, survey_apart
from cdtl_core.data.fault import UnreadableError, guarded, refuse
from cdtl_core.data.frame import Frame, choose_frame

__all__ = ["fit_square", "read_image", "read_images", "read_picture", "survey_images"]


def read_picture(path: Path, frame: Frame = "middle") -> Picture:
    """Read one image; the format is known by its content, not its name.

    Args:
        path: A DICOM, PNG, JPEG, TIFF, BMP, PNM or NIfTI file, or the folder of a DICOM series.
        frame: Of several frames, pages or slices: ``first``, ``middle``, ``last`` or an index from 0.

    Raises:
        DataError: The file is missing, in no known format, damaged, too large, holds no image or not that frame.
    """
    head = _head(path)
    if path.is_dir() or is_nifti(head):
        plan = survey_apart(path, Survey())
        with guarded(path, "image"):
            index = choose_frame(frame, plan.total)
        (picture,) = stream_apart(path, plan.only(index))
        return picture
    # libtiff writes its complaints to stderr and DICOM codecs may abort; the separate process confines both
    return read_apart(path, frame) if is_dicom(head) or is_tiff(head) else read_raster(path, frame)


def survey_images(path: Path, asked: Survey) -> Plan:
    """Return which images of a file or a folder are read, found by its headers.

    Args:
        path: As for `read_picture`; also a whole slide.
        asked: Which of its images are used, and the tiles of a slide.

    Raises:
        DataError: As `read_picture`; also if its images do not belong together.
    """
    head = _head(path)
    has_several = path.is_dir() or is_dicom(head) or is_tiff(head) or is_nifti(head)
    return survey_apart(path, asked) if has_several else Plan("image")


def read_images(path: Path, plan: Plan) -> Iterator[Picture]:
    """Yield the images of a plan in order, one in memory at a time.

    Args:
        path: The file or folder.
        plan: What `survey_images` found.

    Raises:
        DataError: An image cannot be read.
    """
    if plan.kind == "image":
        yield read_picture(path)
    else:
        yield from stream_apart(path, plan)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; none of a folder."""
    try:
        if path.is_dir():
            return b""
        if path.exists() and not path.is_file():
            raise refuse(path, UnreadableError("is no file", "correct its path"))
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise refuse(path, UnreadableError("does not exist", "correct its path or restore the file")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is no path"
        raise refuse(path, UnreadableError(f"cannot be read ({reason})")) from None
    if not head:
        raise refuse(path, UnreadableError("is empty"))
    return head


def read_image(path: Path, frame: Frame = "middle") -> npt.NDArray[np.uint8]:
    """Return the image that `read_picture` reads: H W for a gray image (also with equal channels), else H W 3.

    Raises:
        DataError: As `read_picture`.
    """
    return read_picture(path, frame).alone


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
