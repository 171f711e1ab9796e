"""Lesion boxes: cut the square around a lesion out of an image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cdtl_core.config import BoxConfig
from cdtl_core.errors import ConfigError, DataError

__all__ = ["Square", "cut", "square_of"]


@dataclass(frozen=True)
class Square:
    """A square in an image, in pixels of the file; it may reach beyond the edges."""

    left: int
    top: int
    side: int


def square_of(cells: Mapping[str, str], box: BoxConfig, file: str) -> Square:
    """Return the square around the box in a manifest row.

    Args:
        cells: Column to cell.
        box: Which columns, and how wide around.
        file: Names the row in errors.

    Raises:
        ConfigError: The manifest lacks a column.
        DataError: A cell holds no box, or no scale above 0.
    """
    for column in (box.column, box.scale):
        if column is not None and column not in cells:
            raise ConfigError(f"data.box names the column {column}, the manifest has {', '.join(cells)}: use one.")
    left, top, width, height = _numbers(cells[box.column], box.column, file, 4)
    (scale,) = _numbers(cells[box.scale], box.scale, file, 1) if box.scale else (1.0,)
    if min(width, height, scale) <= 0:
        raise DataError(f"the box of {file} has no area ('{cells[box.column]}'): correct it, or leave its row out.")
    half = max(max(width, height) * scale * box.margin, box.least_px) / 2
    x, y = (left + width / 2) * scale, (top + height / 2) * scale
    return Square(round(x - half), round(y - half), max(1, round(2 * half)))


def cut(image: npt.NDArray[np.uint8], square: Square) -> npt.NDArray[np.uint8]:
    """Return the part of an image H W or H W 3 inside a square; parts beyond the image are black.

    Raises:
        DataError: The square lies outside the image.
    """
    height, width = image.shape[:2]
    top, bottom = max(square.top, 0), min(square.top + square.side, height)
    left, right = max(square.left, 0), min(square.left + square.side, width)
    if top >= bottom or left >= right:
        raise DataError(f"a lesion's box is outside its image of {width} x {height} pixels: correct data.box.scale.")
    found = np.zeros((square.side, square.side, *image.shape[2:]), np.uint8)
    rows, columns = slice(top - square.top, bottom - square.top), slice(left - square.left, right - square.left)
    found[rows, columns] = image[top:bottom, left:right]
    return found


def _numbers(cell: str, column: str, file: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in cell.strip("[]() ").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"the column {column} has '{cell}' for {file}, not {count} numbers: fill it in, or leave the row out by "
            "data.where."
        )
    return numbers
