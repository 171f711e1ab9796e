"""Stored values of a gray DICOM image to display values: modality LUT, window, polarity, padding."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cdtl_core.data.decode.dicom.header import integer, numbers, text
from cdtl_core.data.decode.dicom.table import read_table

__all__ = ["Curve", "Look", "by_value", "frame_group", "linear_window", "read_look", "render_gray", "shown_values"]
__all__ += ["stretch"]

Floats = npt.NDArray[np.float64]
Curve = Callable[[Floats], Floats]
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Look:
    """How stored values are displayed.

    Attributes:
        modality: Stored values to the modality's (Hounsfield units, optical density).
        window: The modality's values to 0-1, None if the file has neither window nor VOI table.
        span: The stored values that the type can hold, if no more than 8 bits are stored.
        padding: Stored values from first to second are no image.
        inverted: Low values are bright (MONOCHROME1).
    """

    modality: Curve
    window: Curve | None
    span: tuple[float, float] | None
    padding: tuple[float, float] | None
    inverted: bool


def read_look(dataset: Dataset, index: int, *, is_float: bool = False) -> Look:
    """Read how a file's frame `index` is to be displayed.

    Args:
        dataset: The header.
        index: Index of the frame, from 0.
        is_float: Whether the stored values are floats.

    Raises:
        UnreadableError: A number it needs is none.
    """
    signed = bool(integer(dataset, "PixelRepresentation", 0)) and not is_float
    allocated = integer(dataset, "BitsAllocated", 32)
    bits = integer(dataset, "BitsStored", allocated)
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    return Look(
        modality=_modality(dataset, index),
        window=_window(dataset, index),
        span=(low, low + 2.0**bits - 1) if bits <= 8 and not is_float else None,
        padding=_padding(dataset, 2**allocated if signed else 0),
        inverted=text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
    )


def render_gray(stored: npt.NDArray[Any], look: Look) -> npt.NDArray[np.uint8]:
    """Return stored values, H W of any type, as uint8 H W for display.

    Without a window, values of up to 8 bits keep their type's range; values of more bits are stretched from the
    smallest to the largest value in the image. Padding and non-finite values are black.
    """
    window = look.window or stretch(*_range(stored, look))

    def show(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        shown = np.clip(window(look.modality(values.astype(np.float64))), 0.0, 1.0)
        shown = 1.0 - shown if look.inverted else shown
        shown[~_is_image(values, look)] = 0.0
        return np.rint(np.nan_to_num(shown) * 255).astype(np.uint8)

    with np.errstate(all="ignore"):
        return by_value(stored, show)


def by_value(
    stored: npt.NDArray[Any], show: Callable[[npt.NDArray[Any]], npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    """Apply a function to every value of an array in blocks, by a table if there are fewer values than pixels."""
    codes = _codes(stored.dtype)
    table = show(codes) if codes is not None and stored.size > codes.size else None
    flat = np.ascontiguousarray(stored).reshape(-1)
    joined = np.concatenate(
        [show(block) if table is None else table[block.view(f"u{block.itemsize}")] for block in _blocks(flat)]
    )
    return joined.reshape(*stored.shape, *joined.shape[1:])


def _modality(dataset: Dataset, index: int) -> Curve:
    table = read_table(dataset, "ModalityLUTSequence")
    if table is not None:
        return table.values
    holder = frame_group(dataset, index, "PixelValueTransformationSequence")
    slope, intercept = numbers(holder, "RescaleSlope"), numbers(holder, "RescaleIntercept")
    if not slope and not intercept:
        return lambda values: values
    by, plus = (slope or [1.0])[0] or 1.0, (intercept or [0.0])[0]
    return lambda values: values * by + plus


def _window(dataset: Dataset, index: int) -> Curve | None:
    table = read_table(dataset, "VOILUTSequence")
    if table is not None:
        return table.shares
    holder = frame_group(dataset, index, "FrameVOILUTSequence")
    centres, widths = numbers(holder, "WindowCenter"), numbers(holder, "WindowWidth")
    if not centres or not widths or widths[0] <= 0:
        return None
    centre, width = centres[0], widths[0]
    match text(holder, "VOILUTFunction").upper():
        case "SIGMOID":
            return lambda values: 1 / (1 + np.exp(-4 * (values - centre) / width))
        case "LINEAR_EXACT":
            return lambda values: (values - centre) / width + 0.5
        case _:
            return linear_window(centre, width)


def linear_window(centre: float, width: float) -> Curve:
    """Return the window from centre and width, PS3.3 C.11.2.1.2.1; a width of 1 is a step between whole numbers."""
    return lambda values: (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5


def frame_group(dataset: Dataset, index: int, keyword: str) -> Dataset:
    """Return the functional group of a frame in an enhanced multi-frame file; for other files the data set itself."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*per_frame[index : index + 1], *shared[:1]]:
        if group.get(keyword):
            found: Dataset = group.get(keyword)[0]
            return found
    return dataset


def _padding(dataset: Dataset, wrap: int) -> tuple[float, float] | None:
    values = [*numbers(dataset, "PixelPaddingValue")[:1], *numbers(dataset, "PixelPaddingRangeLimit")[:1]]
    if not numbers(dataset, "PixelPaddingValue"):
        return None
    # Written as unsigned although the pixels are signed: 63536 means -2000.
    values = [value - wrap if wrap and value >= wrap / 2 else value for value in values]
    return min(values), max(values)


def _range(stored: npt.NDArray[Any], look: Look) -> tuple[float, float]:
    """Return the smallest and largest modality value of the display range."""
    if look.span is not None:
        values = look.modality(np.arange(look.span[0], look.span[1] + 1))
        return float(values.min()), float(values.max())
    low, high = np.inf, -np.inf
    for block in _blocks(_distinct(stored)):
        values = shown_values(block, look)
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def shown_values(stored: npt.NDArray[Any], look: Look) -> Floats:
    """Return the modality's values of what is image and not padding, N."""
    return look.modality(stored[_is_image(stored, look)].astype(np.float64))


def stretch(low: float, high: float) -> Curve:
    """Return the window from the smallest to the largest value that is shown."""
    return lambda values: (values - low) / ((high - low) or 1.0)


def _is_image(values: npt.NDArray[Any], look: Look) -> npt.NDArray[np.bool_]:
    image: npt.NDArray[np.bool_] = np.isfinite(values)
    if look.padding is not None:
        image &= (values < look.padding[0]) | (values > look.padding[1])
    return image


def _codes(dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """All values of an integer type of one or two bytes, in the order of their bits."""
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        return None
    return np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)


def _distinct(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the values that occur, if they are cheap to find; else all possible values."""
    codes, flat = _codes(stored.dtype), np.ascontiguousarray(stored).reshape(-1)
    if codes is None or flat.size < codes.size:
        return flat
    seen = np.zeros(codes.size, np.bool_)
    for block in _blocks(flat):
        seen[block.view(f"u{block.itemsize}")] = True
    found: npt.NDArray[Any] = codes[seen]
    return found


def _blocks(flat: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))
