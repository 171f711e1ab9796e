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
_Level = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Detail:
    """One octave: its standard deviation, its median strength in tissue (0 if there is none), and its skewness."""

    spread: float
    texture: float
    skew: float


def measure_texture(image: Image.Image) -> tuple[Detail, ...]:
    """Return the details of a 128 x 128 copy of a gray image in four octaves, finest first."""
    return tuple(_detail(level, detail) for level, detail in _octaves(image))


def detail_spreads(image: Image.Image) -> tuple[float, ...]:
    """Return the standard deviations of the four details of `measure_texture`."""
    return tuple(float(detail.std()) for _, detail in _octaves(image))


def _octaves(image: Image.Image) -> Iterator[tuple[_Level, _Level]]:
    """Yield the image in each octave, and what that adds to the next coarser one."""
    level = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    for _ in range(OCTAVES):
        coarser = _halved(level)
        yield level, level - coarser.repeat(2, axis=0).repeat(2, axis=1)
        level = coarser


def _halved(level: _Level) -> _Level:
    half = level.shape[0] // 2
    means: _Level = level.reshape(half, 2, half, 2).mean(axis=(1, 3))
    return means


def _detail(level: _Level, detail: _Level) -> Detail:
    """Return the figures of the detail that one octave adds to the next coarser one."""
    spread = float(detail.std())
    tissue = np.abs(detail[(level > TISSUE[0]) & (level < TISSUE[1])])
    return Detail(
        spread=spread,
        texture=float(np.median(tissue)) if tissue.size > 20 else 0.0,
        skew=float((detail * detail * detail).mean()) / max(spread, 0.1) ** 3,
    )
