"""Tiles of a whole slide: where they are, and each read from the level nearest to the wanted resolution."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.slide.tissue import OVERVIEW_PX, covered, tissue_mask
from cdtl_core.data.fault import UnreadableError
from cdtl_core.errors import DataError

__all__ = ["is_slide", "slide_pictures", "survey_slide"]

_WIDTH, _LENGTH, _DESCRIPTION, _SAMPLES, _TILE_WIDTH, _LEVELS, _NDPI = 256, 257, 270, 277, 322, 330, 65420
_LONG_PX = 4096  # a tiled TIFF beyond is a slide
_LONGEST_PX = 400_000  # a slide of 80 mm at 0.2 micrometres per pixel
_TISSUE = 0.5  # share of a tile
_FINER = 0.98  # of the wanted resolution: rounding of a header
_LARGEST_TILE_PX = 4096  # read for one tile
_STRIP_PX = 1 << 24  # pixels of the overview's level that are in memory at a time


@dataclass(frozen=True)
class _Grid:
    """How tiles lie on a slide.

    Attributes:
        side: Side of a tile in pixels of the finest level.
        level: The level that is read.
        read_px: Side of a tile in pixels of that level.
    """

    side: float
    level: int
    read_px: int


def is_slide(path: Path) -> bool:
    """Whether a TIFF file is a whole slide: its first image is stored in tiles and has levels, or over 4096 pixels.

    Gray without levels is no slide, but a large film.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            head += file.read(8) if b"+" in head[2:4] else b""
            directory = TiffImagePlugin.ImageFileDirectory_v2(head)
            file.seek(directory.next)
            directory.load(file)
    except Exception:  # of Pillow's parser; reading the file as an image reports it
        return False
    longest = max(int(directory.get(tag, 0)) for tag in (_WIDTH, _LENGTH))
    is_large = longest > _LONG_PX and int(directory.get(_SAMPLES, 1)) > 1
    is_scan = is_large or _LEVELS in directory or str(directory.get(_DESCRIPTION, "")).startswith("Aperio")
    return _NDPI in directory or (_TILE_WIDTH in directory and is_scan)


def survey_slide(path: Path, asked: Survey) -> Plan:
    """Find the tissue of a slide and return its tiles, row by row.

    Args:
        path: The slide.
        asked: Which tiles, their size and their resolution.

    Raises:
        UnreadableError: It shows no tissue, does not say its resolution, or is no 8-bit colour image.
        DataError: tiffslide is not installed.
    """
    with _opened(path) as slide:
        grid = _grid(slide, asked)
        overview, scale = _overview(slide)
        width, height = slide.dimensions
    columns, rows = max(1, int(width // grid.side)), max(1, int(height // grid.side))
    y, x = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    corners = np.stack([x, y], axis=1) * grid.side
    mask = tissue_mask(overview)
    if not mask.any():
        raise UnreadableError(
            "shows no tissue: no part of it has colour", "scan it again, or leave it out if its glass is empty"
        )
    shares = covered(mask, np.concatenate([corners, corners + grid.side], axis=1) / scale)
    with_tissue = corners[shares >= _TISSUE]
    if not len(with_tissue):
        raise UnreadableError(
            f"shows tissue in {100 * mask.mean():.1f} % of its area, and half of no tile",
            "set data.tile_um lower, so that tiles are smaller",
        )
    chosen = asked.slices.choose(len(with_tissue))
    return Plan(
        "slide",
        len(with_tissue),
        chosen,
        np.rint(with_tissue[list(chosen)]).astype(int).tolist(),
        level=(grid.level, grid.read_px, asked.tile_px),
    )


def slide_pictures(path: Path, plan: Plan, start: int) -> Iterator[Picture]:
    """Yield the chosen tiles of a slide, one in memory at a time.

    Raises:
        UnreadableError: A tile cannot be read; the sentence says where it is.
    """
    level, read_px, size = plan.level
    with _opened(path) as slide:
        for x, y in plan.items[start:]:
            tile = _region(slide, (x, y), level, (read_px, read_px))
            if read_px != size:
                tile = np.asarray(Image.fromarray(tile).resize((size, size), Image.Resampling.BILINEAR))
            yield Picture(tile, 8, "slide")


def _opened(path: Path) -> Any:
    os.environ.setdefault("TIFFSLIDE_NUM_DECODE_THREADS", "1")
    try:
        from tiffslide import TiffSlide
    except ImportError:
        raise DataError(
            "whole slides need the package tiffslide, which is not installed: pip install 'cdtl[slides]'."
        ) from None
    slide = TiffSlide(path)
    _check_whole(slide)
    return slide


def _check_whole(slide: Any) -> None:
    """Refuse a slide whose directory claims more than its file holds, before memory or time is spent on it."""
    if max(slide.dimensions) > _LONGEST_PX:
        raise UnreadableError(
            f"claims {slide.dimensions[0]} x {slide.dimensions[1]} pixels, and a side has {_LONGEST_PX} at most"
        )
    pages = (level[0] for series in slide.ts_tifffile.series for level in series.levels)
    if any(page is not None and len(page.dataoffsets) < prod(page.chunked) for page in pages):
        raise UnreadableError("is damaged (parts of it are not where its directory says)")


def _grid(slide: Any, asked: Survey) -> _Grid:
    told = [slide.properties.get(f"tiffslide.mpp-{axis}") for axis in "xy"]
    wanted = 1.0
    if asked.tile_um:
        if not all(told):
            raise UnreadableError(
                "does not say how many micrometres a pixel is",
                "export it with its resolution, or set data.tile_um = 0 to take the pixels as they are",
            )
        stored = float(sum(map(float, told)) / 2)
        wanted = asked.tile_um / stored
        if wanted < _FINER:
            raise UnreadableError(
                f"has {stored:.2f} micrometres per pixel, and data.tile_um asks for {asked.tile_um:g}",
                f"set data.tile_um to {stored:.2f} or more, at each site that has such slides",
            )
    level = slide.get_best_level_for_downsample(wanted / _FINER)
    read_px = max(1, round(asked.tile_px * wanted / slide.level_downsamples[level]))
    if read_px > _LARGEST_TILE_PX:
        raise UnreadableError(
            f"has no level near {asked.tile_um:g} micrometres per pixel", "export it with all of its levels"
        )
    return _Grid(asked.tile_px * wanted, level, read_px)


def _overview(slide: Any) -> tuple[npt.NDArray[np.uint8], float]:
    """Return the slide on at most 2048 pixels, and how many pixels of the finest level one of them is.

    It is read in strips, so that a slide without coarse levels needs no more memory.
    """
    level = slide.get_best_level_for_downsample(max(slide.dimensions) / OVERVIEW_PX)
    width, height = slide.level_dimensions[level]
    factor = max(1, -(-max(width, height) // OVERVIEW_PX))
    rows = max(1, _STRIP_PX // width // factor) * factor
    strips = []
    for top in range(0, height, rows):
        size, at = (width, min(rows, height - top)), (0, ceil(top * slide.level_downsamples[level] - 1e-6))
        strip = Image.fromarray(_region(slide, at, level, size))
        strips.append(np.asarray(strip.reduce(factor)))
    return np.concatenate(strips), slide.dimensions[0] / (width / factor)


def _region(slide: Any, at: tuple[int, int], level: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return a part of a slide, H W 3.

    Args:
        slide: The open slide.
        at: Left and top in pixels of the finest level.
        level: The level that is read.
        size: Width and height in pixels of that level.
    """
    try:
        pixels = slide.read_region(at, level, size, as_array=True)
    except MemoryError:
        raise
    except Exception as error:  # of zarr, tifffile or a codec
        where = f"{size[0]} x {size[1]} pixels from {at[0]}, {at[1]} on level {level}"
        raise UnreadableError(f"has a part that cannot be decoded ({where}: {type(error).__name__})") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in {3, 4}:
        raise UnreadableError(
            "is a slide in gray or of more than 8 bits, in which tissue is not found by colour",
            "export it as 8-bit RGB, or list tiles of it as images with one exam_id",
        )
    return np.ascontiguousarray(pixels[..., :3])
