"""Order of a volume's slices by their position in the patient, with gaps and repeated slices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.data.fault import UnreadableError

__all__ = ["PLANES", "Stack", "stack_slices"]

PLANES = ("sagittal", "coronal", "axial")
"""Planes across right-left, front-back and feet-head."""
Floats = npt.NDArray[np.float64]
_PARALLEL = 0.999  # cosine; 2.5 degrees, more than the rounding of a header and less than any tilt of another series
_SAME_MM = 0.01  # no scanner takes slices at such a distance
_GAP = 1.5  # times the usual distance: a slice is missing there


@dataclass(frozen=True)
class Stack:
    """Slices in order.

    Attributes:
        order: Index of each slice as given, in order of position.
        spacing_mm: Usual distance of neighbours; None for one slice.
        missing: Number of slices missing between others.
        plane: The nearest plane of the body.
    """

    order: tuple[int, ...]
    spacing_mm: float | None
    missing: int
    plane: str


def stack_slices(orientations: Floats, positions: Floats) -> Stack:
    """Order slices along their common normal: from right to left, from front to back, or from the feet to the head.

    Args:
        orientations: Directions of rows and columns of each slice (ImageOrientationPatient), N 6.
        positions: Place of each slice's first pixel (ImagePositionPatient) in millimetres, N 3.

    Raises:
        UnreadableError: The slices have two orientations, or two have one position.
    """
    parallel = _parallel(orientations)
    if not parallel.all():
        few, many = sorted((int(parallel.sum()), int((~parallel).sum())))
        raise UnreadableError(
            f"holds slices of two orientations ({many} and {few})",
            "keep those of one orientation in it; each orientation is an image of its own, with the same exam_id",
        )
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    axis = int(np.argmax(np.abs(normal)))
    depths = positions @ (normal * (np.sign(normal[axis]) or 1.0))
    order = np.argsort(depths, kind="stable")
    steps = np.diff(depths[order])
    repeated = int((steps < _SAME_MM).sum())
    if repeated:
        raise UnreadableError(
            f"holds {repeated} slice{'s' * (repeated > 1)} where another slice is (an echo, a time or a copy)",
            "keep one slice at each position; each echo and time is an image of its own",
        )
    usual = float(np.median(steps)) if len(steps) else None
    missing = int(sum(round(step / usual) - 1 for step in steps if step > _GAP * usual)) if usual else 0
    return Stack(tuple(order.tolist()), usual, missing, PLANES[axis])


def _parallel(orientations: Floats) -> npt.NDArray[np.bool_]:
    """Whether each slice has the orientation of most."""
    rows, columns = orientations[:, :3], orientations[:, 3:]

    def alike(index: int) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = (rows @ rows[index] > _PARALLEL) & (columns @ columns[index] > _PARALLEL)
        return found

    first = alike(0)
    if 2 * first.sum() >= len(first):
        return first
    return alike(int(np.flatnonzero(~first)[0]))
