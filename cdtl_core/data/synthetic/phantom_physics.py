"""Rendering of a synthetic lesion in each modality: one function per modality, independent of the label."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

__all__ = ["PHYSICS", "Floats", "Pixels", "Scene", "between", "soft_step", "to_pixels"]

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

HEMATOXYLIN = np.array([0.65, 0.70, 0.29])  # optical density per unit of stain, RGB: Ruifrok and Johnston 2001
EOSIN = np.array([0.07, 0.99, 0.11])


@dataclass(frozen=True)
class Scene:
    """One view of one lesion before rendering."""

    inside: Floats  # (H W) share of the lesion in each pixel, 0 to 1
    disc: Floats  # (H W) a disc of the same area and place: what may depend on the lesion's place, not its outline
    style: Floats  # (6) the patient's numbers in [0, 1): contrast, texture, density and three colours

    @property
    def size(self) -> int:
        """Side of the square image in pixels."""
        return int(self.inside.shape[0])


def between(share: float, low: float, high: float) -> float:
    """Return the value at a share of the way from `low` to `high`."""
    return low + (high - low) * float(share)


def _cloud(rng: np.random.Generator, size: int, slope: float, stretch: float = 1.0) -> Floats:
    """A random texture (H W) of power 1 / frequency**slope, mean 0, deviation 1; `stretch` > 1 draws it sideways."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    frequency = np.hypot(rows, stretch * columns)
    frequency[0, 0] = np.inf
    spectrum = rng.standard_normal((2, *frequency.shape))
    field = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) * frequency ** (-slope / 2.0), s=(size, size))
    standard: Floats = (field - field.mean()) / field.std()
    return standard


def soft_step(values: Floats) -> Floats:
    """A soft threshold at 0, from 0 to 1."""
    soft: Floats = 0.5 * (1.0 + np.tanh(0.5 * values))
    return soft


def to_pixels(values: Floats) -> Pixels:
    """Values in [0, 1], clipped, to uint8."""
    return np.round(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8)


def _layers_db(rng: np.random.Generator, size: int, style: Floats) -> Floats:
    """Echo strength (H W) of skin, fat, gland and muscle from top to bottom, decibel."""
    depth = np.linspace(0.0, 1.0, size)[:, None]
    waves = gaussian_filter1d(rng.standard_normal((3, size)), size / 8.0, axis=1, mode="nearest") * np.sqrt(size / 4.0)
    bounds = np.array([[0.05], [between(style[2], 0.14, 0.3)], [rng.uniform(0.75, 0.95)]])
    skin, fat, muscle = bounds + np.array([[0.004], [0.02], [0.02]]) * waves
    db = 4.0 - 11.0 * soft_step((depth - skin) * 150.0) + 7.0 * soft_step((depth - fat) * 60.0)
    db = db - 5.0 * soft_step((depth - muscle) * 60.0)
    for line in (fat, muscle):
        db = db + 6.0 * np.exp(-(((depth - line) / 0.012) ** 2))
    layers: Floats = db + 2.5 * _cloud(rng, size, 2.5, stretch=3.0)
    return layers


def _speckle(echo: Floats, rng: np.random.Generator) -> Floats:
    """Envelope (H W) of random scatterers of amplitude `echo` seen through a beam that widens with depth."""
    size = echo.shape[0]
    scale = size / 128.0
    depth = np.linspace(0.0, 1.0, size)[:, None]
    power = np.zeros_like(echo)
    for _ in range(2):  # in phase, quadrature
        scatterers = echo * rng.standard_normal(echo.shape)
        near, far = (
            gaussian_filter(scatterers, (0.7 * scale, width * scale), truncate=3.0) * np.sqrt(8.8 * width) * scale
            for width in (0.9, 2.0)
        )
        power += ((1.0 - depth) * near + depth * far) ** 2
    envelope: Floats = np.sqrt(gaussian_filter(power, 0.6 * scale, truncate=3.0))
    return envelope


def _ultrasound(scene: Scene, rng: np.random.Generator) -> Pixels:
    """B-mode: a hypoechoic lesion in layers, speckle, attenuation, shadow or enhancement, gain, log compression."""
    depth = np.linspace(0.0, 1.0, scene.size)[:, None]
    db = _layers_db(rng, scene.size, scene.style)
    inner = -between(scene.style[0], 6.0, 16.0) + 1.5 * _cloud(rng, scene.size, 2.0)
    db = db * (1.0 - scene.inside) + inner * scene.inside
    behind = gaussian_filter1d(np.maximum.accumulate(scene.disc, axis=0) - scene.disc, scene.size / 40.0, axis=1)
    db = db + np.clip(rng.normal(0.0, 6.0), -14.0, 7.0) * behind
    column = rng.uniform(0.0, 1.0) - np.linspace(0.0, 1.0, scene.size)[None, :]
    db = db - rng.uniform(0.0, 10.0) * np.exp(-((column / 0.08) ** 2)) * soft_step((depth - 0.2) * 20.0)
    db = db - rng.uniform(-2.0, 10.0) * depth + rng.normal(0.0, 3.0)
    envelope = _speckle(10.0 ** (db / 20.0), rng)
    span = between(scene.style[1], 42.0, 56.0)
    return to_pixels(0.62 + 20.0 * np.log10(envelope + 1e-4) / span)


def _mammography(scene: Scene, rng: np.random.Generator) -> Pixels:
    """X-ray projection: a dense lesion in 1/f fibroglandular tissue, dense patches over it, film blur and grain."""
    size, scale = scene.size, scene.size / 128.0
    tissue = 0.3 * _cloud(rng, size, between(scene.style[1], 2.6, 3.4))
    strands = 0.4 * np.exp(-np.abs(_cloud(rng, size, 3.6, stretch=rng.uniform(0.6, 1.6))) / 0.12)
    patches = soft_step((_cloud(rng, size, 3.4) - between(scene.style[2], 0.0, 1.2)) * 4.0)
    density = tissue + strands + rng.uniform(0.3, 0.9) * patches
    lesion = between(scene.style[0], 0.6, 1.2) * scene.inside * (1.0 + 0.2 * _cloud(rng, size, 2.5))
    column = np.linspace(0.0, 1.0, size)[None, :] if rng.uniform() < 0.5 else np.linspace(1.0, 0.0, size)[None, :]
    thickness = rng.uniform(0.0, 0.8) * column
    film = gaussian_filter(density + lesion - thickness, scale * rng.uniform(0.5, 1.1), truncate=3.0)
    grain = rng.uniform(0.015, 0.04) * gaussian_filter(rng.standard_normal((size, size)), 0.5 * scale) * 1.8
    exposure = 1.5 * film + rng.normal(-0.8, 0.3)
    return to_pixels(soft_step(exposure) + grain)


def _mri(scene: Scene, rng: np.random.Generator) -> Pixels:
    """T1 after contrast, fat suppressed: an enhancing lesion, parenchyma, bias field and Rician noise."""
    size, scale = scene.size, scene.size / 128.0
    gland = soft_step((_cloud(rng, size, 2.8) - between(scene.style[2], -0.3, 0.8)) * 4.0)
    tissue = 0.18 + between(scene.style[1], 0.08, 0.22) * gland + 0.03 * _cloud(rng, size, 2.0)
    enhancement = between(scene.style[0], 0.18, 0.45) * (1.0 + 0.25 * _cloud(rng, size, 3.0))
    signal = gaussian_filter(tissue + enhancement * scene.inside, 0.8 * scale, truncate=3.0)
    bias = np.exp(0.2 * _cloud(rng, size, 5.0) + rng.normal(0.0, 0.15))
    noise = rng.uniform(0.03, 0.07) * rng.standard_normal((2, size, size))
    return to_pixels(np.hypot(signal * bias + noise[0], noise[1]))


def _nuclei(rng: np.random.Generator, where: Floats, size: int, spacing: float, shape: tuple[float, float]) -> Floats:
    """Dark dots (H W), 0 to 1, on a jittered grid `spacing` pixels wide, kept with the probability `where`."""
    steps = np.arange(0.0, size, spacing)
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij")).reshape(2, -1)
    rows, columns = np.clip(grid + rng.uniform(0.0, spacing, grid.shape), 0, size - 1).astype(int)
    kept = rng.uniform(size=rows.shape) < where[rows, columns]
    dots = np.zeros((size, size))
    dots[rows[kept], columns[kept]] = rng.uniform(0.7, 1.3, int(kept.sum()))
    spread = gaussian_filter(dots, shape, truncate=3.0) * (2.0 * np.pi * shape[0] * shape[1])
    return soft_step((spread - 0.5) * 12.0)


def _histology(scene: Scene, rng: np.random.Generator) -> Pixels:
    """H&E: a nest of crowded nuclei in fibrous stroma; absorbed light per stain, stains differ between patients."""
    size, scale, style = scene.size, scene.size / 128.0, scene.style
    fibres = _cloud(rng, size, 2.2, stretch=rng.choice([0.3, 3.0]))
    gaps = soft_step((_cloud(rng, size, 4.5) - 1.6) * 20.0) * (1.0 - scene.inside)
    dot = scale * between(style[1], 1.0, 1.5)
    crowd = _nuclei(rng, rng.uniform(0.75, 0.95) * scene.inside, size, 3.6 * dot, (dot, dot))
    spindle = (0.6 * dot, 1.4 * dot) if rng.uniform() < 0.5 else (1.4 * dot, 0.6 * dot)
    sparse = _nuclei(rng, between(style[2], 0.05, 0.45) * (1.0 - scene.inside), size, 6.0 * dot, spindle)
    body = between(style[0], 0.25, 0.55) * scene.inside
    blue = 0.08 + body + (0.9 + 0.1 * fibres) * np.maximum(crowd, sparse)
    pink = (0.45 + 0.12 * fibres) * (1.0 - 0.3 * scene.inside)
    blue, pink = blue * (1.0 - gaps) * between(style[3], 0.7, 1.3), pink * (1.0 - gaps) * between(style[4], 0.6, 1.3)
    tint = 0.12 * (style[5] - 0.5) * np.array([1.0, 0.0, -1.0])
    absorbed = blue[..., None] * (HEMATOXYLIN + tint) + pink[..., None] * (EOSIN + tint)
    focus = scale * rng.uniform(0.35, 0.85)
    light = gaussian_filter(np.exp(-absorbed), (focus, focus, 0.0), truncate=3.0)
    return to_pixels(light * rng.uniform(0.9, 1.0) + 0.01 * rng.standard_normal(light.shape))


PHYSICS: dict[str, Callable[[Scene, np.random.Generator], Pixels]] = {
    "ultrasound": _ultrasound,
    "mammography": _mammography,
    "histology": _histology,
    "mri": _mri,
}
