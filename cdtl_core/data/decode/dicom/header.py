"""Reads the header of a DICOM file up to its pixel data, without loading the pixel data."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from struct import unpack
from typing import Any, BinaryIO

import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from cdtl_core.data.fault import LARGEST_BYTES, UnreadableError

__all__ = ["Header", "integer", "numbers", "read_header", "text"]

_PIXELS = {0x7FE00010: "PixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00008: "FloatPixelData"}
_PALETTE = [
    f"{kind}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
_KEPT: list[Any] = [
    *("SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "AccessionNumber", "BurnedInAnnotation"),
    *("StudyInstanceUID", "SeriesInstanceUID", "ViewPosition", "ViewCodeSequence", "ImageLaterality", "Laterality"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction"),
    *("WindowCenter", "WindowWidth", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *_PALETTE,
]


@dataclass(frozen=True)
class Header:
    """An open DICOM file.

    Attributes:
        dataset: The elements before the pixel data that intake needs.
        syntax: The transfer syntax of `source`.
        source: The file, or its inflated data, positioned at the value of the pixel data.
        size: Bytes of `source`.
        keyword: ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        vr: Value representation of the pixel data.
    """

    dataset: Dataset
    syntax: uid.UID
    source: BinaryIO
    size: int
    keyword: str
    vr: str


def read_header(file: BinaryIO) -> Header:
    """Read a DICOM file up to its pixel data.

    Raises:
        UnreadableError: The file holds no image, or its header cannot be followed.
    """
    inflated = _inflated(file)
    if inflated is not None:
        source: BinaryIO = BytesIO(inflated)
        dataset = read_dataset(source, False, True, stop_when=lambda tag, *_: tag in _PIXELS, specific_tags=_tags())
        syntax = uid.ExplicitVRLittleEndian
    else:
        source = file
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_KEPT)
        syntax = _syntax(dataset)
    keyword, vr, is_open = _pixel_element(source, dataset, syntax)
    if is_open and not syntax.is_encapsulated:
        raise UnreadableError("has compressed pixel data under an uncompressed transfer syntax", "export it again")
    position = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(position)
    return Header(dataset, syntax, source, size, keyword, vr)


def text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text, empty if absent."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Return an element as a whole number.

    Args:
        dataset: The header.
        keyword: Name of the element.
        default: Value for an absent element.

    Raises:
        UnreadableError: It is absent and has no default, or is not a whole number.
    """
    found = numbers(dataset, keyword)
    if not found and default is not None:
        return default
    if not found or found[0] != int(found[0]):
        raise UnreadableError(f"has no whole number as {keyword} in its header", "export it again or leave it out")
    return int(found[0])


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return the finite numbers of an element; empty if it is absent or empty.

    Raises:
        UnreadableError: One of them is no finite number.
    """
    try:
        value = dataset.get(keyword)
        found = [] if value is None else [float(one) for one in _many(value)]
    except Exception:
        found = [float("nan")]
    if any(abs(one) == float("inf") or one != one for one in found):
        raise UnreadableError(f"has no number as {keyword} in its header", "export it again or leave it out")
    return found


def _many(value: Any) -> Iterator[Any]:
    return iter([value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else value)


def _tags() -> list[Any]:
    return [pydicom.tag.Tag(keyword) for keyword in _KEPT]


def _inflated(file: BinaryIO) -> bytes | None:
    """Inflate a deflated data set up to a size limit (pydicom has none); None for other files."""
    head = file.read(8192)
    file.seek(0)
    at = head.find(b"\x02\x00\x10\x00UI", 132)
    if head[128:132] != b"DICM" or at < 0:
        return None
    name = head[at + 8 : at + 8 + int.from_bytes(head[at + 6 : at + 8], "little")].rstrip(b"\0 ")
    if name != uid.DeflatedExplicitVRLittleEndian.encode():
        return None
    if head[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise UnreadableError("has a damaged DICOM header")
    file.seek(144 + unpack("<I", head[140:144])[0])
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(LARGEST_BYTES), LARGEST_BYTES + 1)
    except zlib.error:
        raise UnreadableError("has damaged deflated data") from None
    if len(data) > LARGEST_BYTES:
        raise UnreadableError(f"inflates to more than {LARGEST_BYTES / 1e6:.0f} MB", "export it without compression")
    return data


def _syntax(dataset: Dataset) -> uid.UID:
    """Return the transfer syntax; if it is missing, the one in which the elements are written."""
    named = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if named:
        return uid.UID(str(named))
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian


def _pixel_element(source: BinaryIO, dataset: Dataset, syntax: uid.UID) -> tuple[str, str, bool]:
    """Return keyword, VR and whether the length is undefined, of the pixel data element next in `source`."""
    order = "<" if syntax.is_private or syntax.is_little_endian else ">"
    head = source.read(8)
    tag = unpack(f"{order}HH", head[:4]) if len(head) == 8 else (0, 0)
    keyword = _PIXELS.get(tag[0] << 16 | tag[1])
    if keyword is None:
        raise UnreadableError(f"has no pixel data{_kind(dataset)}", "leave it out")
    # a length is even and the first letter of these VRs is odd, so the bytes cannot be mistaken for a length
    if head[4:6] in {b"OB", b"OW", b"OF", b"OD", b"UN"}:
        return keyword, head[4:6].decode(), source.read(4) == b"\xff\xff\xff\xff"
    return keyword, "OW", head[4:8] == b"\xff\xff\xff\xff"


def _kind(dataset: Dataset) -> str:
    """Return the file's kind by the DICOM dictionary, in brackets; a name outside the dictionary is not repeated."""
    meta = getattr(dataset, "file_meta", Dataset())
    named = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    name = uid.UID(str(named)).name if named else ""
    return f" ({name})" if name and name != str(named) else ""
