"""Look-up tables of an image, built again from their entries; attributes read without a fault of their values."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

__all__ = ["PALETTES", "copy_palette", "element_of", "gray_table", "value_of"]

PALETTES = tuple(f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue"))
"""Beginning of the names of the three colour tables."""
_MOST = 65536  # entries of a table
_tag = cache(tag_for_keyword)


def element_of(dataset: Dataset, keyword: str) -> DataElement | None:
    """Return an attribute; None if it is absent, empty, or not of its own kind."""
    if _tag(keyword) not in dataset.keys():  # noqa: SIM118 (fast: `in dataset` converts the tag)
        return None
    try:
        found: DataElement = dataset[keyword]
        return None if found.value in (None, "") else found
    except Exception:  # pydicom cannot convert it
        return None


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return the value of an attribute; None as in `element_of`."""
    found = element_of(dataset, keyword)
    return None if found is None else found.value


def _entries(item: Dataset, descriptor: str, data: str) -> tuple[list[int], npt.NDArray[np.uint16]] | None:
    """Return descriptor and entries of a look-up table; None if they do not fit each other."""
    try:
        described, value = [int(one) for one in value_of(item, descriptor)], value_of(item, data)
        raw = value if isinstance(value, bytes) else np.asarray(value, "<u2").tobytes()
    except (TypeError, ValueError, OverflowError):
        return None
    if len(described) != 3 or not 8 <= described[2] <= 16 or not -32768 <= described[1] <= 65535:
        return None
    count = described[0] % _MOST or _MOST
    is_wide = len(raw) >= 2 * count
    found = np.frombuffer(raw[: count * (2 if is_wide else 1)], "<u2" if is_wide else np.uint8).astype(np.uint16)
    return ([count % _MOST, described[1], described[2]], found) if len(found) == count else None


def gray_table(item: Dataset) -> Dataset | None:
    """Return a gray look-up table. It rises or falls throughout, so no text fits into it; any other is dropped."""
    found = _entries(item, "LUTDescriptor", "LUTData")
    if found is None:
        return None
    steps = np.diff(found[1].astype(np.int64))
    if not ((steps >= 0).all() or (steps <= 0).all()):
        return None
    kept = Dataset()
    _set_table(kept, "LUTDescriptor", "LUTData", *found)
    return kept


def copy_palette(dataset: Dataset, kept: Dataset) -> None:
    """Copy the colour tables of a PALETTE COLOR image."""
    if kept.get("PhotometricInterpretation") != "PALETTE COLOR":
        return
    for one in PALETTES:
        found = _entries(dataset, f"{one}Descriptor", f"{one}Data")
        if found is not None:
            _set_table(kept, f"{one}Descriptor", f"{one}Data", *found)


def _set_table(
    kept: Dataset, descriptor: str, data: str, described: list[int], entries: npt.NDArray[np.uint16]
) -> None:
    """Write a look-up table of 16-bit entries.

    Args:
        kept: Gets it.
        descriptor: Keyword of the descriptor.
        data: Keyword of the entries.
        described: Number of entries, first value, bits.
        entries: The entries.
    """
    kept.add_new(descriptor, "SS" if described[1] < 0 else "US", described)
    kept.add_new(data, "OW", entries.astype("<u2").tobytes())
