"""Writes synthetic patients as files and a manifest, in the forms that hospitals have them."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from cdtl_core.data.synthetic.exam import SLICE_STEP, render_exam, render_volume
from cdtl_core.data.synthetic.phantom import Patient, check_modality, draw_patient, render_view
from cdtl_core.data.synthetic.phantom_physics import Pixels
from cdtl_core.errors import DataError
from cdtl_core.system.durable import replace_bytes

__all__ = ["write_phantoms"]

MIN_PATIENTS = 4
VIEWS = (("CC", "R"), ("MLO", "R"), ("CC", "L"), ("MLO", "L"))
FIELD_MM = 160.0  # height and width of what an MRI slice shows


@dataclass(frozen=True)
class _Form:
    """What the files of a site's patients are; `images` is the fewest and the most of an exam, None: no exams."""

    modality: str
    seed: int
    size: int
    images: tuple[int, int] | None
    series: bool
    other_lesions: float


def write_phantoms(
    folder: Path,
    *,
    modality: str,
    num_patients: int,
    seed: int,
    size: int = 128,
    prevalence: float = 0.4,
    train: int | None = None,
    images: tuple[int, int] | None = None,
    series: bool = False,
    other_lesions: float = 0.0,
) -> Path:
    """Write synthetic patients as ``folder/images`` and ``folder/manifest.csv``.

    The manifest (file, label, patient_id, with exams exam_id; files relative to the folder; sorted by patient_id, a
    hash) is put in place last, so its existence means the images are complete.

    Args:
        folder: Where to write.
        modality: One that can be rendered: `MODALITIES`.
        num_patients: At least 4. Patient i's images do not depend on it.
        seed: Of all that is drawn.
        size: Height and width of an image in pixels.
        prevalence: Share of malignant patients, in [0, 1].
        train: Adds a column split: the first `train` patients are for training, as many for validation, the others for
            testing. None: no such column.
        images: Fewest and most images of an exam; each patient has one exam, and the lesion is in one of its images.
            None: one or two images of each patient, and all show the lesion.
        series: Whether an exam is an MRI volume, written as a folder of DICOM files, one for each slice.
        other_lesions: Share of an exam's other images that show a benign-looking lesion, whatever the label.

    Returns:
        The path of the manifest.

    Raises:
        DataError: The modality cannot be rendered, there are fewer than 4 patients, the prevalence is no share, or
            the exams cannot be written in this form.

    Examples:
        >>> from pathlib import Path
        >>> from cdtl_core import write_phantoms
        >>> manifest = write_phantoms(Path("phantoms"), modality="mri", num_patients=4, seed=0, size=32)
        >>> manifest.read_text().splitlines()[0]
        'file,label,patient_id'
    """
    check_modality(modality)
    form = _Form(modality, seed, size, images, series, other_lesions)
    _check(form, num_patients, prevalence)
    manifest = folder / "manifest.csv"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)
    rows: list[dict[str, str]] = []
    for index in range(num_patients):
        rows += _write_patient(folder / "images", form, index=index, malignant=_is_malignant(index, prevalence))
    rows.sort(key=lambda row: row["patient_id"])
    if train is not None:
        places = {_token("patient", modality, seed, index): index // train for index in range(num_patients)}
        rows = [{**row, "split": ("train", "val", "test")[min(places[row["patient_id"]], 2)]} for row in rows]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    replace_bytes(manifest, ("\n".join(lines) + "\n").encode())
    return manifest


def _check(form: _Form, num_patients: int, prevalence: float) -> None:
    """Refuse what cannot be written.

    Args:
        form: What is asked for.
        num_patients: Number of patients.
        prevalence: Share of malignant ones.

    Raises:
        DataError: It cannot be written.
    """
    if num_patients < MIN_PATIENTS:
        raise DataError(
            f"a synthetic site needs at least {MIN_PATIENTS} patients, got {num_patients}: "
            f"ask for {MIN_PATIENTS} or more."
        )
    if not 0.0 <= prevalence <= 1.0:
        raise DataError(f"the prevalence is a share of the patients, got {prevalence}: give a number from 0 to 1.")
    if not 0.0 <= form.other_lesions <= 1.0:
        raise DataError(f"other_lesions is a share of the images, got {form.other_lesions}: give a number from 0 to 1.")
    if form.images is not None and not 1 <= form.images[0] <= form.images[1]:
        raise DataError(
            f"an exam cannot have {form.images[0]} to {form.images[1]} images: give the fewest, then the most."
        )
    if form.series and (form.modality != "mri" or form.images is None):
        raise DataError(
            f"synthetic volumes are MRI series with a number of slices, got the modality {form.modality} and "
            f"{form.images} images: use mri and give the fewest and the most slices, or no series."
        )


def _token(*parts: object) -> str:
    """Return twelve hex digits as a name without meaning."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()


def _is_malignant(index: int, prevalence: float) -> bool:
    """Return the label of patient `index`, so that the first n patients have round(prevalence * n) malignant ones."""
    return round(prevalence * (index + 1)) > round(prevalence * index)


def _write_patient(folder: Path, form: _Form, *, index: int, malignant: bool) -> list[dict[str, str]]:
    """Write the images of a patient and return her manifest rows.

    Args:
        folder: Folder of all images.
        form: What the files are.
        index: Number of the patient.
        malignant: Her label.
    """
    rng = np.random.default_rng([form.seed, crc32(form.modality.encode()), index])
    patient = draw_patient(malignant, rng)
    label, patient_id = "malignant" if malignant else "benign", _token("patient", form.modality, form.seed, index)
    facts = {"label": label, "patient_id": patient_id}
    if form.images is None:
        drawn = (render_view(form.modality, patient, rng, form.size) for _ in range(int(rng.integers(1, 3))))
        return [{"file": file, **facts} for file in _write_images(folder, drawn, form, index)]
    exam, count = _token("exam", form.modality, form.seed, index), int(rng.integers(form.images[0], form.images[1] + 1))
    facts["exam_id"] = exam
    if form.series:
        _write_volume(folder / exam, patient, rng, form, count)
        return [{"file": f"{folder.name}/{exam}", **facts}]
    (folder / exam).mkdir(exist_ok=True)
    images = render_exam(form.modality, patient, rng, size=form.size, count=count, other_lesions=form.other_lesions)
    files = [f"{folder.name}/{file}" for file in _write_images(folder / exam, images, form, index)]
    views = [
        dict(zip(("view", "laterality"), VIEWS[place % len(VIEWS)], strict=True))
        if form.modality == "mammography"
        else {}
        for place in range(count)
    ]
    return [{"file": file, **facts, **view} for file, view in zip(files, views, strict=True)]


def _write_images(folder: Path, drawn: Iterable[Pixels], form: _Form, index: int) -> list[str]:
    """Write images as PNG and return their paths relative to the parent of `folder`.

    Args:
        folder: Where to write.
        drawn: The images.
        form: What the files are.
        index: Number of the patient.
    """
    files = []
    for place, pixels in enumerate(drawn):
        name = f"{_token('image', form.modality, form.seed, index, place)}.png"
        Image.fromarray(pixels).save(folder / name)
        files.append(f"{folder.name}/{name}")
    return files


def _write_volume(folder: Path, patient: Patient, rng: np.random.Generator, form: _Form, count: int) -> None:
    """Write an MRI volume as a DICOM series.

    Args:
        folder: Folder of the series; its name identifies it.
        patient: The patient.
        rng: The only source of randomness.
        form: What the files are.
        count: Number of slices.
    """
    from cdtl_core.data.synthetic.series import write_series  # pydicom takes a while to load

    volume = render_volume(patient, rng, size=form.size, count=count, other_lesions=form.other_lesions)
    spacing = FIELD_MM / form.size
    write_series(folder, volume, name=folder.name, spacing=spacing, thickness=SLICE_STEP * spacing)
