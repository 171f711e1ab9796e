"""Slices of a volume as images: one window for all, square pixels, the neighbours as channels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cdtl_core.data.decode.dicom.gray import Curve, Look, linear_window, render_gray, shown_values, stretch
from cdtl_core.data.decode.picture import DicomTags, Picture
from cdtl_core.data.decode.plan import Plan
from cdtl_core.data.fault import UnreadableError, check_size
from cdtl_core.data.frame import Slices

__all__ = ["Stored", "check_pixel", "volume_pictures"]

Pixels = npt.NDArray[np.uint8]
SOFT_TISSUE = (40.0, 400.0)  # centre and width in Hounsfield units
_AIR = -500.0  # a value below is a Hounsfield unit: no magnitude of MR, nor a normalised one, is that low
_SAMPLED = 9  # slices whose values give the range
_VALUES = 1 << 16  # of each
_LOW, _HIGH = 0.5, 99.5  # percentiles
_ROUND = 1.01  # pixels whose sides differ by less are square
_LONGEST = 16.0


@dataclass(frozen=True)
class Stored:
    """One slice as the file stores it.

    Attributes:
        values: H W of any type.
        look: How they are shown; its window is replaced by that of the volume.
        bits: Bits per value.
        is_ct: Whether they are Hounsfield units; None: not known.
        tags: Of a DICOM file.
    """

    values: npt.NDArray[Any]
    look: Look
    bits: int
    is_ct: bool | None
    tags: DicomTags | None = None


Source = Callable[[int], Stored]
"""Reads the slice of an index, from 0 in order of position."""


def volume_pictures(plan: Plan, source: Source, start: int, kind: str) -> Iterator[Picture]:
    """Yield the chosen slices, each with its neighbours in the volume as first and third channel.

    At the ends the slice itself stands for the missing neighbour. At most three slices are in memory.

    Args:
        plan: The volume.
        source: Reads a slice.
        start: How many of the chosen slices are passed over.
        kind: ``DICOM`` or ``NIfTI``.
    """
    window = _common_window(plan.total, source)
    kept: dict[int, tuple[Pixels, Stored]] = {}
    for index in plan.rest(start):
        wanted = [max(index - 1, 0), index, min(index + 1, plan.total - 1)]
        kept = {one: kept.get(one) or _shown(source(one), window, plan) for one in dict.fromkeys(wanted)}
        pixels = np.stack([kept[one][0] for one in wanted], axis=2)
        yield Picture(pixels, kept[index][1].bits, kind, kept[index][1].tags, neighbours=True)


def check_pixel(height: float, width: float) -> tuple[float, float]:
    """Return height and width of a stored pixel in millimetres.

    Raises:
        UnreadableError: They are no lengths, or so unequal that one is wrong.
    """
    if not (height > 0 and width > 0 and max(height / width, width / height) <= _LONGEST):
        raise UnreadableError(
            f"has pixels of {height:g} x {width:g} mm", "export it again with the scanner's pixel spacing"
        )
    return height, width


def _shown(stored: Stored, window: Curve | None, plan: Plan) -> tuple[Pixels, Stored]:
    gray = render_gray(stored.values, replace(stored.look, window=window))
    return _square_pixels(gray, *plan.pixel_mm) if plan.pixel_mm else gray, replace(stored, values=np.empty(0))


def _square_pixels(gray: Pixels, height_mm: float, width_mm: float) -> Pixels:
    """Resample an image, bilinear, so that its pixels are squares of the shorter side."""
    least = min(height_mm, width_mm)
    if max(height_mm, width_mm) < _ROUND * least:
        return gray
    rows, columns = round(gray.shape[0] * height_mm / least), round(gray.shape[1] * width_mm / least)
    check_size(rows, columns, 1)
    return np.asarray(Image.fromarray(gray).resize((columns, rows), Image.Resampling.BILINEAR))


def _common_window(total: int, source: Source) -> Curve | None:
    """Return what all slices are shown with: the middle slice's window, else one by modality.

    Without a window in the file CT is shown as soft tissue, and another volume from its 0.5th to its 99.5th percentile.
    """
    middle = source(total // 2)
    if middle.look.window or middle.look.span:
        return middle.look.window
    if middle.is_ct:
        return linear_window(*SOFT_TISSUE)
    values = np.concatenate([_sample(source(index)) for index in Slices(_SAMPLED).choose(total)])
    if not values.size:
        return stretch(0.0, 0.0)
    if middle.is_ct is None and values.min() <= _AIR:
        return linear_window(*SOFT_TISSUE)
    low, high = np.percentile(values, [_LOW, _HIGH])
    return stretch(float(low), float(high) if high > low else float(values.max()))


def _sample(stored: Stored) -> npt.NDArray[np.float64]:
    flat = stored.values.reshape(-1)
    values: npt.NDArray[np.float64] = shown_values(flat[:: max(1, flat.size // _VALUES)], stored.look)
    return values[np.isfinite(values)]
