"""What all decoders share: formats by first bytes, colour images that are gray, warnings of libraries kept away."""

import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["HEAD_BYTES", "drop_equal_channels", "is_dicom", "is_nifti", "is_tiff", "series_files", "silenced"]

HEAD_BYTES = 4096
"""First bytes of a file that tell its format."""

_LIBRARIES = r"(PIL|pydicom|openjpeg|rle|pylibjpeg|gdcm|cdtl_core\.data)(\.|$)"
_lock = threading.Lock()
_depth = 0
_saved: warnings.catch_warnings | None = None


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with these bytes (132 at least) is DICOM, or a DICOM data set without preamble."""
    if head[128:132] == b"DICM":
        return True
    # The first element is of group 2 or 8, and its number below 256, in either byte order.
    is_little = head[:2] in {b"\x02\x00", b"\x08\x00"} and head[3:4] == b"\x00"
    is_big = head[:2] in {b"\x00\x02", b"\x00\x08"} and head[2:3] == b"\x00"
    return is_little or is_big


def is_tiff(head: bytes) -> bool:
    """Whether a file that starts with these bytes is TIFF or BigTIFF."""
    return head[:4] in {b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"}


def is_nifti(head: bytes) -> bool:
    """Whether a file that starts with these bytes (`HEAD_BYTES`) is a NIfTI volume, compressed by gzip or not."""
    if head[:2] == b"\x1f\x8b":
        with suppress(zlib.error):
            return is_nifti(zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 540))
        return False
    return head[344:348] == b"n+1\0" or head[4:12] == b"n+2\0\r\n\x1a\n"


def series_files(folder: Path) -> list[Path]:
    """Return the files in a folder of a DICOM series, by name, without hidden ones and the index of an export."""
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_file() and not child.name.startswith(".") and child.name.upper() != "DICOMDIR"
    )


def drop_equal_channels(colour: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return H W of an image H W 3 with equal channels; a colour image is returned unchanged."""
    red, green, blue = colour[..., 0], colour[..., 1], colour[..., 2]
    is_gray = bool((red == green).all() and (red == blue).all())
    return np.ascontiguousarray(red if is_gray else colour)


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress warnings of image libraries; warnings of other modules pass.

    Filters are global to the process, so the first thread sets them and the last one restores them.
    """
    global _depth, _saved
    with _lock:
        if _depth == 0:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.filterwarnings("ignore", module=_LIBRARIES)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _saved is not None:
                _saved.__exit__(None, None, None)
                _saved = None
