"""Pixel data without what is no pixel: bytes after the image, comments and metadata inside compressed frames."""

from collections.abc import Iterator
from math import ceil
from struct import pack, unpack_from

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, RLELossless

from cdtl_core.pacs.faults import PacsError

__all__ = ["clean_pixels"]

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOC, _J2K_COM, _SOT, _SOD = b"\xff\x4f", 0xFF64, 0xFF90, 0xFF93
_JP2 = b"jP  "
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_DAMAGED = "an image is damaged or cut short"


def clean_pixels(kept: Dataset, pixels: bytes, syntax: UID) -> bytes:
    """Return the pixel data of an image.

    Args:
        kept: The attributes that describe the pixels.
        pixels: As they arrived.
        syntax: Their transfer syntax.

    Raises:
        PacsError: They are too short for the image, or damaged.
    """
    if not syntax.is_encapsulated:
        return _whole(kept, pixels)
    count = int(kept.get("NumberOfFrames") or 1)
    try:
        frames = list(generate_frames(pixels, number_of_frames=count))
        cleaned = [_clean_frame(frame, is_rle=syntax == RLELossless) for frame in frames]
    except Exception:  # struct.error and what pydicom raises on damaged items
        raise PacsError(_DAMAGED) from None
    if len(cleaned) != count:
        raise PacsError(_DAMAGED)
    found: bytes = encapsulate(cleaned)
    return found


def _whole(kept: Dataset, pixels: bytes) -> bytes:
    """Return uncompressed pixels without what stands behind them, or in bits that hold no value (old overlays)."""
    bits = kept.Rows * kept.Columns * kept.SamplesPerPixel * kept.BitsAllocated * int(kept.get("NumberOfFrames") or 1)
    size: int = ceil(bits / 8 * (2 / 3 if kept.PhotometricInterpretation == "YBR_FULL_422" else 1))
    if len(pixels) < size:
        raise PacsError(_DAMAGED)
    return _without_unused_bits(kept, pixels[:size]) + b"\0" * (size % 2)


def _without_unused_bits(kept: Dataset, pixels: bytes) -> bytes:
    allocated, stored = int(kept.BitsAllocated), int(kept.get("BitsStored", kept.BitsAllocated))
    if allocated not in {8, 16} or not 0 < stored < allocated or kept.get("HighBit", stored - 1) != stored - 1:
        return pixels
    kind = f"<{'i' if kept.get('PixelRepresentation') else 'u'}{allocated // 8}"
    unused = allocated - stored
    values = np.frombuffer(pixels, kind)
    cleared: bytes = ((values << unused) >> unused).astype(kind).tobytes()  # a negative value keeps its sign
    return cleared


def _clean_frame(frame: bytes, *, is_rle: bool) -> bytes:
    if frame[4:8] == _JP2:  # a wrapper that has no place in DICOM and may hold text
        frame = frame[max(frame.find(_SOC + b"\xff\x51"), 0) :]
    if is_rle:
        cleaned = frame  # run lengths have no place for text
    elif frame.startswith(_SOC):
        cleaned = _without_comments(frame)
    elif frame.startswith(_SOI):
        cleaned = b"".join(_segments(frame))
    else:
        raise ValueError
    return cleaned + b"\0" * (len(cleaned) % 2)


def _segments(frame: bytes) -> Iterator[bytes]:
    """Yield the parts of a JPEG or JPEG-LS stream that make the image, up to its end."""
    yield _SOI
    at = 2
    while True:
        if frame[at] != 0xFF:
            raise ValueError
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == _EOI[1]:
            yield _EOI
            return
        end = at + 2 + (0 if marker in _ALONE else unpack_from(">H", frame, at + 2)[0])
        if end > len(frame):
            raise ValueError
        yield _kept_segment(marker, frame[at:end])
        at = end
        if marker == 0xDA:
            at = _end_of_scan(frame, end)
            yield frame[end:at]


def _kept_segment(marker: int, segment: bytes) -> bytes:
    """Return a segment; of those of applications only what tells the colours, and no comment."""
    if marker == 0xE0 and segment[4:9] == b"JFIF\0":
        return pack(">HH", 0xFFE0, 16) + b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
    if marker == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16:
        return pack(">HH", 0xFFEE, 14) + b"Adobe\0\x64\0\0\0\0" + segment[15:16]
    if marker == 0xFE or (0xE0 <= marker <= 0xEF and segment[2:8] != b"\0\x07mrfx"):
        return b""
    return segment


def _end_of_scan(frame: bytes, at: int) -> int:
    """Return where the next marker after entropy-coded data begins."""
    while True:
        at = frame.find(b"\xff", at)
        if at < 0 or at + 1 >= len(frame):
            raise ValueError
        following = frame[at + 1]
        # 00 to 7F: stuffed data (JPEG: 00, JPEG-LS: a bit); FF: fill; D0 to D7: restart
        if following >= 0x80 and following != 0xFF and following not in _ALONE:
            return at
        at += 1 if following == 0xFF else 2


def _without_comments(frame: bytes) -> bytes:
    """Return a JPEG 2000 stream without its comments, up to its end."""
    parts, at = [_SOC], 2
    while (marker := unpack_from(">H", frame, at)[0]) != _SOT:
        end = at + 2 + unpack_from(">H", frame, at + 2)[0]
        if end > len(frame) or not 0xFF30 <= marker <= 0xFFFF:
            raise ValueError
        parts.append(b"" if marker == _J2K_COM else frame[at:end])
        at = end
    return b"".join([*parts, _tiles(frame, at), _EOI])


def _tiles(frame: bytes, begin: int) -> bytes:
    """Return the tile parts of a JPEG 2000 stream; comments in them are blanked, so that no length changes."""
    tiles, at = bytearray(frame), begin
    while tiles[at : at + 2] != _EOI:
        marker, length = unpack_from(">H", tiles, at)[0], unpack_from(">I", tiles, at + 6)[0]
        end = at + length if length else tiles.rfind(_EOI)  # 0: up to the end
        if marker != _SOT or not at < end <= len(tiles):
            raise ValueError
        _blank_comments(tiles, at + 12, end)
        at = end
    return bytes(tiles[begin:at])


def _blank_comments(tiles: bytearray, at: int, end: int) -> None:
    while (marker := unpack_from(">H", tiles, at)[0]) != _SOD:
        after: int = at + 2 + unpack_from(">H", tiles, at + 2)[0]
        if not at + 4 <= after < end or not 0xFF30 <= marker <= 0xFFFF:
            raise ValueError
        if marker == _J2K_COM:
            tiles[at + 6 : after] = bytes(after - at - 6)
        at = after
