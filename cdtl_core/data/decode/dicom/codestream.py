"""Checks of a JPEG, JPEG-LS or JPEG 2000 stream, before a codec allocates memory for it or works for seconds."""

from collections.abc import Mapping
from struct import unpack_from
from typing import Any

from cdtl_core.data.fault import UnreadableError

__all__ = ["check_codestream"]

_J2K = b"\xff\x4f\xff\x51"
_SOF = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_JPEG_LS = 0xF7
_END = b"\xff\xd9"


def check_codestream(data: bytes, options: Mapping[str, Any]) -> bytes:
    """Compare a compressed frame with the header's rows, columns and samples per pixel.

    Returns:
        The frame; without the JP2 wrapper, if it had one, which has no place in DICOM.

    Raises:
        UnreadableError: Its size is another one, or a JPEG-LS stream was cut: its codec computes four seconds on it.
    """
    if data[4:8] == b"jP  ":
        data = data[max(data.find(_J2K), 0) :]
    kind, found = (0, _size_of_j2k(data)) if data.startswith(_J2K) else _size_of_jpeg(data)
    wanted = (options["rows"], options["columns"], options["samples_per_pixel"])
    if found is not None and found != wanted:
        raise UnreadableError(
            f"contradicts itself (compressed: {found[1]} x {found[0]} pixels of {found[2]} samples, "
            f"header: {wanted[1]} x {wanted[0]} of {wanted[2]})"
        )
    if kind == _JPEG_LS and not data.rstrip(b"\0").endswith(_END):
        raise UnreadableError("is truncated (its compressed frame has no end)")
    return data


def _size_of_j2k(data: bytes) -> tuple[int, int, int] | None:
    if len(data) < 42:
        return None
    right, bottom, left, top = unpack_from(">4I", data, 8)
    return bottom - top, right - left, unpack_from(">H", data, 40)[0]


def _size_of_jpeg(data: bytes) -> tuple[int, tuple[int, int, int] | None]:
    """Return marker, and height, width and samples, of the first frame header; 0 and None: none, or a height later."""
    if data[:2] != b"\xff\xd8":
        return 0, None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _SOF:
            height, width, samples = unpack_from(">HHB", data, at + 5)
            return marker, (height, width, samples) if height else None
        at += 1 if marker == 0xFF else 2 + unpack_from(">H", data, at + 2)[0]
    return 0, None
