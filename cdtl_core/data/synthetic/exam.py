"""Synthetic exams of several images, one of which shows what the label says.

All images of an exam show the tissue of one patient. In one image, drawn at random, there is a lesion with the outline
of the label. The others show no lesion or, where a harder task is wanted, some of them a smooth, benign-looking one, as
often in benign as in malignant exams.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from cdtl_core.data.synthetic.phantom import SEPARATION, Patient, draw_patient, draw_scene, render_view
from cdtl_core.data.synthetic.phantom_physics import PHYSICS, Floats, Pixels, Scene, between, soft_step, to_pixels

__all__ = ["SLICE_STEP", "render_exam", "render_volume"]

SLICE_STEP = 4.0  # thickness of a slice in pixels of a slice
CAP = 0.6  # radius of the lesion in the two slices next to its own, as a share of the radius there


def render_exam(
    modality: str, patient: Patient, rng: np.random.Generator, *, size: int, count: int, other_lesions: float = 0.0
) -> Iterator[Pixels]:
    """Render the images of one exam, each uint8 (H W) or (H W 3).

    Args:
        modality: One that can be rendered.
        patient: Her lesion is in one of the images.
        rng: The only source of randomness.
        size: Side of an image in pixels.
        count: Number of images.
        other_lesions: Share of the other images that show a benign-looking lesion.
    """
    shown = int(rng.integers(count))
    for place in range(count):
        if place == shown:
            yield render_view(modality, patient, rng, size)
        elif rng.uniform() < other_lesions:
            yield render_view(modality, _smooth(patient, rng), rng, size)
        else:
            yield PHYSICS[modality](_without(patient, size), rng)


def render_volume(
    patient: Patient, rng: np.random.Generator, *, size: int, count: int, other_lesions: float = 0.0
) -> Pixels:
    """Render an MRI volume, uint8 D H W: tissue continues from slice to slice, the lesion's outline is in one slice.

    The slices next to it show the lesion's ends, which are round whatever the label.

    Args:
        patient: The patient.
        rng: The only source of randomness.
        size: Height and width in pixels; a slice is `SLICE_STEP` pixels thick.
        count: Number of slices D.
        other_lesions: Share of the other slices that show a benign-looking lesion.
    """
    scale, style = size / 128.0, patient.style
    shape = (count, size, size)
    gland = soft_step((_cloud(rng, shape, 3.8) - between(style[2], -0.3, 0.8)) * 4.0)
    tissue = 0.18 + between(style[1], 0.08, 0.22) * gland + 0.03 * _cloud(rng, shape, 3.0)
    enhancement = between(style[0], 0.18, 0.45) * (1.0 + 0.25 * _cloud(rng, shape, 4.0))
    signal = tissue + enhancement * _lesions(patient, rng, size=size, count=count, others=other_lesions)
    signal = gaussian_filter(signal, (0.0, 0.8 * scale, 0.8 * scale), truncate=3.0)
    bias = np.exp(0.2 * _cloud(rng, shape, 6.0) + rng.normal(0.0, 0.15))
    noise = rng.uniform(0.03, 0.07) * rng.standard_normal((2, *shape))
    return to_pixels(np.hypot(signal * bias + noise[0], noise[1]))


def _smooth(patient: Patient, rng: np.random.Generator) -> Patient:
    """Return a lesion in the tissue of a patient that is smoother than most benign ones."""
    other = draw_patient(False, rng)
    return replace(other, style=patient.style, irregularity=-SEPARATION / 2 - abs(float(rng.standard_normal())))


def _without(patient: Patient, size: int) -> Scene:
    nothing = np.zeros((size, size))
    return Scene(inside=nothing, disc=nothing, style=patient.style)


def _lesions(patient: Patient, rng: np.random.Generator, *, size: int, count: int, others: float) -> Floats:
    """Return the share of lesions in each voxel, D H W."""
    inside = np.zeros((count, size, size))
    shown = int(rng.integers(count))
    scene = draw_scene(patient, rng, size)
    for place in range(count):
        if place == shown:
            inside[place] = scene.inside
        elif abs(place - shown) == 1:
            inside[place] = _end_of(scene)
        elif rng.uniform() < others:
            inside[place] = draw_scene(_smooth(patient, rng), rng, size).inside
    return inside


def _end_of(scene: Scene) -> Floats:
    """Return the lesion one slice away: a smaller disc at the same place, H W."""
    size = scene.size
    rows, columns = np.mgrid[0:size, 0:size]
    total = scene.disc.sum()
    row, column = (scene.disc * rows).sum() / total, (scene.disc * columns).sum() / total
    radius, margin = CAP * np.sqrt(total / np.pi), size / 128.0
    distance = np.hypot(rows - row, columns - column)
    end: Floats = 1.0 / (1.0 + np.exp(np.clip((distance - radius) / margin, -30.0, 30.0)))
    return end


def _cloud(rng: np.random.Generator, shape: tuple[int, int, int], slope: float) -> Floats:
    """A random texture D H W of power 1 / frequency**slope, mean 0, deviation 1; a slice is `SLICE_STEP` thick."""
    depth = np.fft.fftfreq(shape[0], SLICE_STEP)[:, None, None]
    rows, columns = np.fft.fftfreq(shape[1])[None, :, None], np.fft.rfftfreq(shape[2])[None, None, :]
    frequency = np.sqrt(depth**2 + rows**2 + columns**2)
    frequency[0, 0, 0] = np.inf
    spectrum = rng.standard_normal((2, *frequency.shape))
    field = np.fft.irfftn((spectrum[0] + 1j * spectrum[1]) * frequency ** (-slope / 2.0), s=shape, axes=(0, 1, 2))
    standard: Floats = (field - field.mean()) / field.std()
    return standard
