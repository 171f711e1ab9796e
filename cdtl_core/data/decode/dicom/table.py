"""Lookup tables of DICOM: modality, VOI and palette, plain and segmented."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cdtl_core.data.decode.dicom.header import numbers
from cdtl_core.data.fault import UnreadableError

__all__ = ["Table", "read_palette", "read_table"]

_FAULT = "has a damaged lookup table"


@dataclass(frozen=True)
class Table:
    """A table of N entries; values below `first` take the first entry, beyond the end the last.

    Attributes:
        entries: float64 N, or N 3 for a palette.
        first: The value that the first entry stands for.
        top: What full brightness is.
    """

    entries: npt.NDArray[np.float64]
    first: float
    top: float

    def values(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the table's entries for values of any shape."""
        places = np.clip(np.nan_to_num(values) - self.first, 0, len(self.entries) - 1)
        found: npt.NDArray[np.float64] = self.entries[places.astype(np.int64)]
        return found

    def shares(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the table's entries scaled to 0-1."""
        return self.values(values) / self.top


def read_table(dataset: Dataset, keyword: str) -> Table | None:
    """Return the first table of ``ModalityLUTSequence`` or ``VOILUTSequence``; None if the file has none.

    Raises:
        UnreadableError: It is damaged.
    """
    items = dataset.get(keyword)
    if not items or items[0].get("LUTDescriptor") is None or items[0].get("LUTData") is None:
        return None
    count, first, bits = _descriptor(items[0], "LUTDescriptor")
    entries = _words(items[0].get("LUTData"), count, is_little=_is_little(dataset))
    if entries.size < 1:
        raise UnreadableError(_FAULT)
    return Table(entries[:count], first, max(2.0**bits - 1, float(entries.max())))


def read_palette(dataset: Dataset) -> Table:
    """Return the colour table of a PALETTE COLOR image, entries N 3.

    Raises:
        UnreadableError: It is missing or damaged.
    """
    columns, first, bits = [], 0.0, 8
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        count, first, bits = _descriptor(dataset, f"{name}Descriptor")
        data, segments = dataset.get(f"{name}Data"), dataset.get(f"Segmented{name}Data")
        if data:
            entries = _words(data, count, is_little=_is_little(dataset))[:count]
        elif segments:
            words = _words(segments, len(segments) // (1 if bits == 8 else 2), is_little=_is_little(dataset))
            entries = np.array(_expand(words.astype(int).tolist(), count, is_bytes=bits == 8), np.float64)
        else:
            raise UnreadableError("has no colour table")
        columns.append(entries)
    if not 0 < len(columns[0]) == len(columns[1]) == len(columns[2]):
        raise UnreadableError(_FAULT)
    table = np.stack(columns, axis=1)
    return Table(table, first, 255.0 if table.max() <= 255 else 65535.0)


def _descriptor(dataset: Dataset, keyword: str) -> tuple[int, float, int]:
    found = numbers(dataset, keyword)
    if len(found) != 3 or not 8 <= found[2] <= 16:
        raise UnreadableError(_FAULT)
    # No entries means 65536, which does not fit its 16 bits; read as signed, more than 32767 is negative.
    return int(found[0]) % 65536 or 65536, found[1], int(found[2])


def _words(data: Any, count: int, *, is_little: bool) -> npt.NDArray[np.float64]:
    """Return entries of one or two bytes, depending on the length of the data."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, np.float64))
    if len(data) >= 2 * count:
        return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if is_little else ">u2").astype(np.float64)
    return np.frombuffer(data, np.uint8).astype(np.float64)


def _is_little(dataset: Dataset) -> bool:
    return bool(dataset.original_encoding[1] is not False)


def _expand(words: Sequence[int], count: int, *, is_bytes: bool) -> list[float]:
    """Return the entries of a segmented table, at most `count`.

    Source: DICOM PS3.3 C.7.9.2. Differs: an indirect segment may not name another indirect one, as the standard says.
    """
    entries: list[float] = []
    at = 0
    while at + 2 < len(words) and len(entries) < count:
        kind, length = words[at], words[at + 1]
        if kind == 2 and length <= len(words):
            offset, at = _offset(words, at + 2, is_bytes=is_bytes)
            for _ in range(length):
                offset = _segment(words, offset, entries, count)
        else:
            at = _segment(words, at, entries, count)
    return entries


def _offset(words: Sequence[int], at: int, *, is_bytes: bool) -> tuple[int, int]:
    """Return the index named by an indirect segment, and the start of the next segment."""
    size = 4 if is_bytes else 2
    if at + size > len(words):
        raise UnreadableError(_FAULT)
    base = 256 if is_bytes else 65536
    offset = sum(word * base**place for place, word in enumerate(words[at : at + size]))
    return (offset if is_bytes else offset // 2), at + size


def _segment(words: Sequence[int], at: int, entries: list[float], count: int) -> int:
    """Append a discrete or linear segment to `entries`; return the start of the next one."""
    if at + 2 >= len(words) or words[at] > 1 or (words[at] == 1 and not entries):
        raise UnreadableError(_FAULT)
    kind, length = words[at], min(words[at + 1], count - len(entries))
    if kind == 0:
        entries.extend(words[at + 2 : at + 2 + length])
        return at + 2 + words[at + 1]
    last, goal = entries[-1], words[at + 2]
    entries.extend(round(last + (goal - last) * (step + 1) / words[at + 1]) for step in range(length))
    return at + 3
