"""Reads one frame of a DICOM file's pixel data; no other frame is decoded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any, BinaryIO

import numpy.typing as npt
from pydicom import uid
from pydicom.encaps import encapsulate, generate_fragments, get_frame, parse_basic_offsets, parse_fragments
from pydicom.pixels.decoders.base import Decoder, get_decoder

from cdtl_core.data.decode.dicom.codestream import check_codestream
from cdtl_core.data.decode.dicom.header import Header, integer, text
from cdtl_core.data.fault import UnreadableError, check_size

__all__ = ["Places", "check_frames", "frame_places", "read_frame"]

# Order of the decoders. gdcm is the only one for JPEG-LS, lossless and 12-bit JPEG, and can abort the process on
# damaged data. Therefore DICOM files are read in a separate process: see cdtl_core.data.decode.reader.
_CODECS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEG2000: "pylibjpeg",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.RLELossless: "pylibjpeg",
}


Places = Sequence[tuple[int, int]]
"""Where the fragments of each frame begin and end in a file."""


def frame_places(header: Header) -> Places:
    """Return the places of a compressed file's frames; empty if it says itself where they are, or that is not known.

    Without a table of offsets pydicom looks through all fragments for each frame; here they are looked through once.
    """
    frames = integer(header.dataset, "NumberOfFrames", 1)
    if frames < 2 or not header.syntax.is_encapsulated or _offsets(header):
        return ()
    with _where_it_is(header.source) as source:
        try:
            items = [] if parse_basic_offsets(source) else _items(source)
        except Exception:  # reading the frame reports it
            return ()
        if len(items) == frames:
            return items
        found, first = [], 0
        for last, (_, end) in enumerate(items):
            source.seek(end - 10)
            if b"\xff\xd9" in source.read(10):  # ends a JPEG or JPEG 2000 stream
                found.append((items[first][0], end))
                first = last + 1
        return found if len(found) == frames else ()


def check_frames(header: Header, count: int) -> None:
    """Refuse pixel data that cannot hold this number of frames, before disk is reserved for them.

    Raises:
        UnreadableError: Uncompressed ones end before, or compressed ones have fewer fragments.
    """
    if header.syntax.is_encapsulated and (held := _num_fragments(header)) < count:  # a frame has at least one
        raise UnreadableError(f"claims {count} frames and holds {held} compressed fragments, so it is truncated")
    needed = ceil(_frame_bytes(_options(header)) * count)
    if not header.syntax.is_encapsulated and header.source.tell() + needed > header.size:
        raise UnreadableError(f"is truncated (its pixel data end before the last of its {count} frames does)")


def read_frame(header: Header, index: int, places: Places = ()) -> tuple[npt.NDArray[Any], str]:
    """The stored values of one frame, H W or H W 3 in the file's type, and their photometric interpretation.

    Args:
        header: The file.
        index: Index of the frame, from 0.
        places: What `frame_places` found, if several frames are read.

    Raises:
        UnreadableError: The header contradicts itself, or the frame is too large, truncated or cannot be decompressed.
    """
    options = _options(header)
    samples = 3 if options["photometric_interpretation"] == "PALETTE COLOR" else options["samples_per_pixel"]
    check_size(options["rows"], options["columns"], samples * max(1.0, options["bits_allocated"] / 8))
    decoder = _decoder(header.syntax, options["bits_stored"])
    if decoder.is_encapsulated:
        values, found = _decompress(header, index, decoder, options, places)
    else:
        if header.source.tell() + ceil(_frame_bytes(options) * (index + 1)) > header.size:
            raise UnreadableError("is truncated (its pixel data end before the frame does)")
        with _where_it_is(header.source) as source:
            values, found = decoder.as_array(source, index=index, **options)
    return values.astype(values.dtype.newbyteorder("="), copy=False), str(found["photometric_interpretation"])


@contextmanager
def _where_it_is(source: BinaryIO) -> Iterator[BinaryIO]:
    """Put a file back to its position afterwards."""
    position = source.tell()
    try:
        yield source
    finally:
        source.seek(position)


def _items(source: BinaryIO) -> list[tuple[int, int]]:
    """Return where each item of compressed data begins and ends."""
    found = []
    for start in parse_fragments(source)[1]:
        source.seek(start + 4)
        found.append((start, start + 8 + int.from_bytes(source.read(4), "little")))
    return found


def _num_fragments(header: Header) -> int:
    with _where_it_is(header.source) as source:
        try:
            parse_basic_offsets(source)
            found: int = parse_fragments(source)[0]
        except Exception:  # damaged in a way that pydicom cannot name
            raise UnreadableError("is truncated or damaged (its compressed fragments cannot be found)") from None
    return found


def _options(header: Header) -> dict[str, Any]:
    dataset, is_float = header.dataset, header.keyword != "PixelData"
    allocated = integer(
        dataset, "BitsAllocated", {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(header.keyword)
    )
    options = {
        "rows": integer(dataset, "Rows"),
        "columns": integer(dataset, "Columns"),
        "samples_per_pixel": integer(dataset, "SamplesPerPixel", 1),
        "bits_allocated": allocated,
        "bits_stored": allocated if is_float else integer(dataset, "BitsStored", allocated),
        "pixel_representation": integer(dataset, "PixelRepresentation", 0),
        "planar_configuration": integer(dataset, "PlanarConfiguration", 0),
        "photometric_interpretation": text(dataset, "PhotometricInterpretation"),
        "number_of_frames": max(1, integer(dataset, "NumberOfFrames", 1)),
        "pixel_keyword": header.keyword,
        "pixel_vr": header.vr,
    }
    if options["samples_per_pixel"] not in {1, 3}:
        raise UnreadableError(f"has {options['samples_per_pixel']} samples per pixel", "export it as gray or RGB")
    return options


def _frame_bytes(options: dict[str, Any]) -> float:
    bits: int = options["rows"] * options["columns"] * options["samples_per_pixel"] * options["bits_allocated"]
    return bits / 8 * (2 / 3 if options["photometric_interpretation"] == "YBR_FULL_422" else 1)


def _decoder(syntax: uid.UID, bits: int) -> Decoder:
    if syntax == uid.JPEGExtended12Bit and bits > 8:
        syntax = (
            uid.JPEGLossless
        )  # gdcm reads the coding process from the stream; pydicom accepts it only under this syntax
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableError(
            f"is stored in a way that cannot be read{_name(syntax)}", "export it uncompressed or as JPEG 2000"
        ) from None
    if not decoder.is_available:
        raise UnreadableError(
            f"needs a codec that is not installed{_name(syntax)}", "reinstall cdtl with its dependencies"
        )
    return decoder


def _decompress(
    header: Header, index: int, decoder: Decoder, options: dict[str, Any], places: Places
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    try:
        data = _fragments(header, *places[index]) if places else _find(header, index, options["number_of_frames"])
    except Exception:
        raise UnreadableError("is truncated or damaged (the compressed frame cannot be found)") from None
    data = check_codestream(data, options)
    plugins = [_CODECS[decoder.UID], ""] if decoder.UID in _CODECS else [""]
    for plugin in plugins:
        try:
            values, found = decoder.as_array(
                encapsulate([data]), index=0, decoding_plugin=plugin, **{**options, "number_of_frames": 1}
            )
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException:  # noqa: S112 (a panic of Rust code is no Exception; the next codec may do)
            continue
        return values, found
    raise UnreadableError(f"has pixel data that cannot be decompressed{_name(header.syntax)}")


def _find(header: Header, index: int, frames: int) -> bytes:
    return get_frame(header.source, index, number_of_frames=frames, extended_offsets=_offsets(header))


def _fragments(header: Header, start: int, end: int) -> bytes:
    with _where_it_is(header.source) as source:
        source.seek(start)
        return b"".join(generate_fragments(source.read(end - start)))


def _offsets(header: Header) -> tuple[bytes, bytes] | None:
    found = (header.dataset.get("ExtendedOffsetTable"), header.dataset.get("ExtendedOffsetTableLengths"))
    return found if all(found) else None


def _name(syntax: uid.UID) -> str:
    """The transfer syntax in brackets if the DICOM dictionary has it."""
    return f" ({syntax.name})" if syntax.name != str(syntax) else ""
