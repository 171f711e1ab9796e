"""Texture of an image in four octaves."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Detail", "detail_spreads", "measure_texture"]

OCTAVES = 4
SIDE = 128  # pixels
TISSUE = (16, 250)  # gray levels: neither black nor white


@dataclass(frozen=True)
class Detail:
    """One octave: its standard deviation, its median strength in tissue (0 if there is none), and its skewness."""

    spread: float
    texture: float
    skew: float


def measure_texture(image: Image.Image) -> tuple[Detail, ...]:
    """Return the details of a 128 x 128 copy of a gray image in four octaves, finest first."""
    return tuple(_detail(level) for level in _octaves(image))


def detail_spreads(image: Image.Image) -> tuple[float, ...]:
    """Return the standard deviations of the four details of `measure_texture`."""
    return tuple(float(_difference(level).std()) for level in _octaves(image))


def _octaves(image: Image.Image) -> Iterator[npt.NDArray[np.float32]]:
    level = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    for _ in range(OCTAVES):
        yield level
        level = _halved(level)


def _halved(level: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    half = level.shape[0] // 2
    means: npt.NDArray[np.float32] = level.reshape(half, 2, half, 2).mean(axis=(1, 3))
    return means


def _difference(level: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what one octave adds to the next coarser one."""
    return level - _halved(level).repeat(2, axis=0).repeat(2, axis=1)


def _detail(level: npt.NDArray[np.float32]) -> Detail:
    """Return the detail that one octave adds to the next coarser one."""
    detail = _difference(level)
    spread = float(detail.std())
    tissue = np.abs(detail[(level > TISSUE[0]) & (level < TISSUE[1])])
    return Detail(
        spread=spread,
        texture=float(np.median(tissue)) if tissue.size > 20 else 0.0,
        skew=float((detail * detail * detail).mean()) / max(spread, 0.1) ** 3,
    )
