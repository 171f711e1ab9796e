"""Decodes PNG, JPEG, TIFF, BMP and PNM files."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from cdtl_core.data.decode.formats import drop_equal_channels, silenced
from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.fault import UnreadableError, check_size, refuse
from cdtl_core.data.frame import Frame, choose_frame

__all__ = ["count_pages", "read_pages", "read_raster"]

# only these: some of Pillow's formats start programs (EPS), and rare formats are rarely fixed
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM")
_BITS, _PHOTOMETRIC, _SUBFILE = 258, 262, 254
_MOST_PAGES = 4096


def read_raster(path: Path, frame: Frame = "middle") -> Picture:
    """Decode a PNG, JPEG, TIFF, BMP or PNM file; `frame` chooses among the pages of a TIFF file.

    Unsigned values of more than 8 bits are scaled from their full range; signed ones, 32-bit ones and floats from the
    image's smallest to its largest, except floats in [0, 1], which are kept. Transparency is dropped.

    Raises:
        DataError: The file is missing, in another format, damaged or too large.
    """
    with _opened(path) as image:
        pages = _pages(image)
        return _picture(image, pages[choose_frame(frame, len(pages))])


def count_pages(path: Path) -> int:
    """Return the number of images in a file: the pages of a TIFF without thumbnails, otherwise 1.

    Raises:
        DataError: As `read_raster`.
    """
    with _opened(path) as image:
        return len(_pages(image))


def read_pages(path: Path, chosen: Iterable[int]) -> Iterator[Picture]:
    """Yield the pages of a TIFF file, by index from 0.

    Raises:
        DataError: As `read_raster`.
    """
    with _opened(path) as image:
        pages = _pages(image)
        for index in chosen:
            yield _picture(image, pages[index])


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        # not by path: Pillow 13 maps such a TIFF into memory and scrambles it if its orientation swaps the axes
        with silenced(), open(path, "rb") as file, Image.open(file, formats=_FORMATS) as image:
            yield image
    except UnreadableError as fault:
        raise refuse(path, fault) from None
    except UnidentifiedImageError:
        raise refuse(
            path, UnreadableError("is in no format that can be read", "convert it to PNG, JPEG, TIFF, BMP or DICOM")
        ) from None
    except Image.DecompressionBombError:
        raise refuse(
            path, UnreadableError("claims too many pixels", "export it at a lower resolution or leave it out")
        ) from None
    except MemoryError:
        raise refuse(path, UnreadableError("is damaged, or needs more memory than there is")) from None
    except Exception as error:  # Pillow passes on the errors of its parsers: struct.error, KeyError, zlib.error
        raise refuse(path, UnreadableError(f"cannot be decoded ({_reason(error)})")) from None


def _picture(image: Image.Image, index: int) -> Picture:
    if index or image.tell():
        image.seek(index)
    check_size(image.height, image.width, _bytes_per_pixel(image.mode))
    bits, is_white_zero = _bits(image), _tag(image, _PHOTOMETRIC) == 0
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    image.load()
    image = _upright(image)
    deep = image.mode.startswith("I") or image.mode == "F"
    pixels = _from_deep(np.asarray(image), bits, image.mode) if deep else _from_bytes(image)
    # Pillow inverts 8-bit films that store white as 0, and leaves deeper ones.
    pixels = 255 - pixels if deep and is_white_zero else pixels
    return Picture(pixels, bits, kind)


def _pages(image: Image.Image) -> list[int]:
    """Return the images in a file, without thumbnails of a TIFF or extra images of a camera's JPEG."""
    if image.format != "TIFF" or not getattr(image, "is_animated", False):
        return [0]
    pages = []
    for index in range(_MOST_PAGES + 1):
        try:
            image.seek(index)
        except EOFError:
            break
        if not int(_tag(image, _SUBFILE) or 0) & 1:
            pages.append(index)
    if len(pages) > _MOST_PAGES:
        raise UnreadableError(f"has more than {_MOST_PAGES} pages", "save the wanted page as a separate file")
    image.seek(0)
    return pages or [0]


def _tag(image: Image.Image, number: int) -> Any:
    """A TIFF tag's first value; None for other formats."""
    value = image.tag_v2.get(number) if hasattr(image, "tag_v2") else None
    return value[0] if isinstance(value, tuple) and value else value


def _bits(image: Image.Image) -> int:
    """Return the stored bits per sample, which Pillow's modes do not keep."""
    if image.format == "TIFF":
        return int(_tag(image, _BITS) or 1)
    if isinstance(image, PngImagePlugin.PngImageFile) and image.fp is not None:
        at = image.fp.tell()
        image.fp.seek(24)  # the header chunk always comes first
        depth = image.fp.read(1)
        image.fp.seek(at)
        return int(depth[0])
    return {"1": 1, "F": 32}.get(image.mode, 16 if image.mode.startswith("I") else 8)


def _bytes_per_pixel(mode: str) -> int:
    return {"1": 1, "L": 1, "P": 1, "I": 4, "F": 4, "LA": 4, "PA": 4}.get(mode, 2 if mode.startswith("I;16") else 4)


def _upright(image: Image.Image) -> Image.Image:
    """Return the image upright by its orientation tag (Pillow has already turned TIFF files)."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _from_bytes(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode in {"1", "L", "LA", "La"}:
        return np.array(image.convert("L"))
    return drop_equal_channels(np.asarray(image.convert("RGB")))


def _from_deep(values: npt.NDArray[Any], bits: int, mode: str) -> npt.NDArray[np.uint8]:
    low, high = _span(values, bits, mode)
    with np.errstate(all="ignore"):
        shown = (values.astype(np.float64) - low) * (255.0 / ((high - low) or 1.0))
        return np.rint(np.clip(np.nan_to_num(shown), 0, 255)).astype(np.uint8)


def _span(values: npt.NDArray[Any], bits: int, mode: str) -> tuple[float, float]:
    """Return the values that become black and white."""
    if mode.startswith("I;16") or (mode == "I" and bits == 16 and values.size and values.min() >= 0):
        return 0.0, 2.0 ** min(bits, 16) - 1
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (0.0, 1.0) if mode == "F" and low >= 0 and high <= 1 else (low, high)


def _reason(error: Exception) -> str:
    """Return Pillow's message as part of a sentence, unless it quotes the file."""
    text = " ".join(str(error).split()).rstrip(".").split(". ")[0][:120]
    is_safe = text and isinstance(error, OSError | SyntaxError | ValueError) and not {"'", '"'} & set(text)
    return text if is_safe else type(error).__name__
