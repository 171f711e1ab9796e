"""Synthetic lesion images. They test the software and have no medical meaning.

Only the outline depends on the label (benign: smooth oval; malignant: lobulated or spiculated). The same outlines are
rendered with the physics of each modality, so a network can transfer shape from one modality to another.
"""

from dataclasses import dataclass

import numpy as np

from cdtl_core.data.synthetic.phantom_physics import PHYSICS, Floats, Pixels, Scene
from cdtl_core.errors import DataError

__all__ = ["MODALITIES", "Patient", "check_modality", "draw_patient", "draw_scene", "render_phantom", "render_view"]

MODALITIES: tuple[str, ...] = tuple(PHYSICS)

SEPARATION = 2.5  # standard deviations between the classes' irregularities: AUROC Phi(2.5 / sqrt 2) = 0.96
AMPLITUDE = 0.25  # root mean square departure of the radius from the oval, at its most irregular
VIEW_LIKENESS = 0.9  # correlation between the outlines of two views of one lesion
HARMONICS = np.arange(3, 15)
ANGLES = np.linspace(0.0, 2.0 * np.pi, 720, endpoint=False)


@dataclass(frozen=True)
class Patient:
    """The facts shared by all views of one synthetic lesion; only `irregularity` depends on the label."""

    irregularity: float  # standard deviations from the midpoint between the classes
    spikiness: float  # 0 lobulated to 1 spiculated
    aspect: float  # long axis / short axis of the underlying oval
    radius: float  # of the disc with the lesion's area, as a fraction of the image's side
    ripple: Floats  # (2 K) cosine and sine amplitudes of the outline's K harmonics
    style: Floats  # (6) numbers in [0, 1): contrast, texture, density and colours, read by the physics


def draw_patient(malignant: bool, rng: np.random.Generator) -> Patient:
    """Draw one synthetic patient's lesion; the irregularities of the two classes overlap."""
    return Patient(
        irregularity=float(rng.normal(SEPARATION / 2 if malignant else -SEPARATION / 2)),
        spikiness=float(rng.uniform()),
        aspect=float(rng.uniform(1.05, 1.7)),
        radius=float(rng.uniform(0.16, 0.25)),
        ripple=rng.standard_normal((2, len(HARMONICS))),
        style=rng.uniform(size=6),
    )


def _ripple(patient: Patient, rng: np.random.Generator) -> Floats:
    """Return one view's departure from the oval along ANGLES, with mean 0 and mean square 1."""
    fresh = rng.standard_normal(patient.ripple.shape)
    amplitudes = VIEW_LIKENESS * patient.ripple + np.sqrt(1.0 - VIEW_LIKENESS**2) * fresh
    centre = 4.0 + 6.0 * patient.spikiness
    amplitudes = amplitudes * (0.2 + np.exp(-0.5 * ((HARMONICS - centre) / 2.0) ** 2))
    phases = np.outer(HARMONICS, ANGLES)
    wave = amplitudes[0] @ np.cos(phases) + amplitudes[1] @ np.sin(phases)
    peaked = np.exp(0.7 * patient.spikiness * wave / wave.std()) if patient.spikiness > 0.05 else wave
    standard: Floats = (peaked - peaked.mean()) / peaked.std()
    return standard


def _outline(patient: Patient, rng: np.random.Generator) -> Floats:
    """Return the radius of one view's outline along ANGLES, scaled to the area of a disc of radius 1."""
    oval = 1.0 / np.sqrt(np.cos(ANGLES) ** 2 / patient.aspect + patient.aspect * np.sin(ANGLES) ** 2)
    amplitude = AMPLITUDE / (1.0 + np.exp(0.57 - 0.77 * patient.irregularity))  # 0.09 halfway between the classes
    radius = oval * np.clip(1.0 + amplitude * _ripple(patient, rng), 0.3, 2.2)
    unit: Floats = radius / np.sqrt(np.mean(radius**2))
    return unit


def draw_scene(patient: Patient, rng: np.random.Generator, size: int) -> Scene:
    """Place one view of the lesion: position, rotation and margin are drawn independently of the label."""
    outline = _outline(patient, rng)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    row, column = size * rng.uniform(0.4, 0.6, size=2)
    margin = size / 128.0 * rng.uniform(0.4, 1.2)
    rows, columns = np.mgrid[0:size, 0:size]
    distance = np.hypot(rows - row, columns - column)
    angle = np.arctan2(rows - row, columns - column) + turn
    radius = size * patient.radius
    edge = radius * np.interp(angle, ANGLES, outline, period=2.0 * np.pi)
    inside = 1.0 / (1.0 + np.exp(np.clip((distance - edge) / margin, -30.0, 30.0)))
    disc = 1.0 / (1.0 + np.exp(np.clip((distance - radius) / (3.0 * margin), -30.0, 30.0)))
    return Scene(inside=inside, disc=disc, style=patient.style)


def check_modality(modality: str) -> None:
    """Refuse a modality that cannot be rendered.

    Raises:
        DataError: It is none of `MODALITIES`.
    """
    if modality not in PHYSICS:
        raise DataError(
            f"no synthetic image can be rendered for the modality '{modality}': use one of {', '.join(MODALITIES)}."
        )


def render_view(modality: str, patient: Patient, rng: np.random.Generator, size: int = 128) -> Pixels:
    """Render another view of a synthetic patient's lesion, uint8 (H W) or (H W 3).

    Args:
        modality: Name of the modality.
        patient: The patient.
        rng: The only source of randomness.
        size: Side of the image in pixels.

    Raises:
        DataError: The modality cannot be rendered.
    """
    check_modality(modality)
    return PHYSICS[modality](draw_scene(patient, rng, size), rng)


def render_phantom(modality: str, malignant: bool, rng: np.random.Generator, size: int = 128) -> Pixels:
    """Render the lesion of a new synthetic patient, uint8: (H W) gray, or (H W 3) for histology.

    Args:
        modality: Name of the modality.
        malignant: The label.
        rng: The only source of randomness.
        size: Side of the image in pixels.

    Raises:
        DataError: The modality cannot be rendered.
    """
    return render_view(modality, draw_patient(malignant, rng), rng, size)
