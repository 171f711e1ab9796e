"""Synthetic lesion images. They test the software and have no medical meaning.

Only the outline depends on the label (benign: smooth oval; malignant: lobulated or spiculated). The same outlines are
rendered with the physics of each modality, so a network can transfer shape from one modality to another.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from cdtl_core.data.synthetic.phantom_physics import PHYSICS, Floats, Pixels, Scene
from cdtl_core.errors import DataError
from cdtl_core.system.durable import replace_bytes

__all__ = ["MODALITIES", "Patient", "draw_patient", "render_phantom", "render_view", "write_phantoms"]

MODALITIES: tuple[str, ...] = tuple(PHYSICS)

MIN_PATIENTS = 4
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


def _draw_scene(patient: Patient, rng: np.random.Generator, size: int) -> Scene:
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


def _check_modality(modality: str) -> None:
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
    _check_modality(modality)
    return PHYSICS[modality](_draw_scene(patient, rng, size), rng)


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


def _token(*parts: object) -> str:
    """Return twelve hex digits as a name without meaning."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()


def _is_malignant(index: int, prevalence: float) -> bool:
    """Return the label of patient `index`, so that the first n patients have round(prevalence * n) malignant ones."""
    return round(prevalence * (index + 1)) > round(prevalence * index)


def _write_patient(
    images: Path, *, modality: str, index: int, seed: int, size: int, malignant: bool
) -> list[tuple[str, str, str]]:
    """Write the one or two views of a patient and return their manifest rows."""
    rng = np.random.default_rng([seed, crc32(modality.encode()), index])
    patient = draw_patient(malignant, rng)
    label, patient_id = "malignant" if malignant else "benign", _token("patient", modality, seed, index)
    rows = []
    for view in range(int(rng.integers(1, 3))):
        name = f"{_token('image', modality, seed, index, view)}.png"
        Image.fromarray(render_view(modality, patient, rng, size)).save(images / name)
        rows.append((f"{images.name}/{name}", label, patient_id))
    return rows


def write_phantoms(
    folder: Path,
    *,
    modality: str,
    num_patients: int,
    seed: int,
    size: int = 128,
    prevalence: float = 0.4,
    train: int | None = None,
) -> Path:
    """Write synthetic patients as ``folder/images/*.png`` and ``folder/manifest.csv``.

    The manifest (file, label, patient_id; files relative to the folder; sorted by patient_id, a hash) is put in place
    last, so its existence means the images are complete.

    Args:
        folder: Where to write.
        modality: One that can be rendered: `MODALITIES`.
        num_patients: At least 4. Patient i's images do not depend on it.
        seed: Of all that is drawn.
        size: Height and width of an image in pixels.
        prevalence: Share of malignant patients, in [0, 1].
        train: Adds a column split: the first `train` patients are for training, as many for validation, the others for
            testing. None: no such column.

    Returns:
        The path of the manifest.

    Raises:
        DataError: The modality cannot be rendered, there are fewer than 4 patients, or the prevalence is no share.

    Examples:
        >>> from pathlib import Path
        >>> from cdtl_core import write_phantoms
        >>> manifest = write_phantoms(Path("phantoms"), modality="mri", num_patients=4, seed=0, size=32)
        >>> manifest.read_text().splitlines()[0]
        'file,label,patient_id'
    """
    _check_modality(modality)
    if num_patients < MIN_PATIENTS:
        raise DataError(
            f"a synthetic site needs at least {MIN_PATIENTS} patients, got {num_patients}: "
            f"ask for {MIN_PATIENTS} or more."
        )
    if not 0.0 <= prevalence <= 1.0:
        raise DataError(f"the prevalence is a share of the patients, got {prevalence}: give a number from 0 to 1.")
    images, manifest = folder / "images", folder / "manifest.csv"
    images.mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)
    rows: list[tuple[str, str, str]] = []
    for index in range(num_patients):
        malignant = _is_malignant(index, prevalence)
        rows += _write_patient(images, modality=modality, index=index, seed=seed, size=size, malignant=malignant)
    rows.sort(key=lambda row: row[2])
    lines = [",".join(row) for row in (("file", "label", "patient_id"), *rows)]
    if train is not None:
        places = {_token("patient", modality, seed, index): index // train for index in range(num_patients)}
        parts = ["split", *(("train", "val", "test")[min(places[row[2]], 2)] for row in rows)]
        lines = [f"{line},{part}" for line, part in zip(lines, parts, strict=True)]
    replace_bytes(manifest, ("\n".join(lines) + "\n").encode())
    return manifest
