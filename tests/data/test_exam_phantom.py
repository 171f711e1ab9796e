"""Synthetic exams: one image of each carries the label; files are PNG frames or a DICOM series."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cdtl_core.config.settings import site_of
from cdtl_core.data.decode.read import read_picture
from cdtl_core.data.synthetic.exam import render_exam, render_volume
from cdtl_core.data.synthetic.phantom import Patient, draw_patient
from cdtl_core.data.synthetic.writing import write_phantoms
from cdtl_core.errors import ConfigError, DataError


def rows_of(manifest: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(manifest.read_text().splitlines()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def two_labels(seed: int) -> tuple[Patient, Patient]:
    """One patient with a benign and with a malignant outline."""
    patient = draw_patient(False, np.random.default_rng(seed))
    return replace(patient, irregularity=-1.25), replace(patient, irregularity=1.25)


@pytest.mark.parametrize("modality", ["ultrasound", "mammography", "mri"])
def test_the_label_is_in_one_image_of_an_exam_and_in_any_of_them(modality: str) -> None:
    shown = set()
    for seed in range(12):
        benign, malignant = (
            np.stack(
                list(render_exam(modality, patient, np.random.default_rng(seed), size=32, count=3, other_lesions=0.5))
            )
            for patient in two_labels(seed)
        )
        differs = (benign != malignant).any(axis=(1, 2))
        assert differs.sum() == 1
        shown.add(int(differs.argmax()))
    assert shown == {0, 1, 2}


def test_the_label_is_in_one_slice_of_a_volume_whose_tissue_continues() -> None:
    benign, malignant = (
        render_volume(patient, np.random.default_rng(5), size=64, count=24).astype(float) for patient in two_labels(5)
    )
    assert (benign != malignant).any(axis=(1, 2)).sum() == 1
    smooth = benign.reshape(24, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(24, -1)
    likeness = np.corrcoef(smooth)
    near, far = (np.median([likeness[place, (place + step) % 24] for place in range(24)]) for step in (1, 12))
    assert near > far + 0.2


@pytest.mark.parametrize(
    ("modality", "images", "series"),
    [("ultrasound", (2, 5), False), ("histology", (3, 3), False), ("mri", (4, 6), True)],
)
def test_same_seed_writes_the_same_exams_and_their_number_of_images_is_in_the_range(
    tmp_path: Path, modality: str, images: tuple[int, int], series: bool
) -> None:
    one, two = (
        write_phantoms(
            tmp_path / name, modality=modality, num_patients=6, seed=3, size=32, images=images, series=series
        )
        for name in ("one", "two")
    )
    assert contents(one.parent) == contents(two.parent)
    exams = [folder for folder in (tmp_path / "one" / "images").iterdir() if folder.is_dir()]
    counts = [len(list(folder.iterdir())) for folder in exams]
    assert len(exams) == len({row["exam_id"] for row in rows_of(one)}) == 6
    assert images[0] <= min(counts) <= max(counts) <= images[1]
    assert {row["exam_id"] for row in rows_of(one)} == {folder.name for folder in exams}
    assert len(rows_of(one)) == (6 if series else sum(counts))


def test_mammography_exams_name_their_views(tmp_path: Path) -> None:
    manifest = write_phantoms(tmp_path, modality="mammography", num_patients=4, seed=0, size=32, images=(4, 4))
    for exam in {row["exam_id"] for row in rows_of(manifest)}:
        views = [(row["view"], row["laterality"]) for row in rows_of(manifest) if row["exam_id"] == exam]
        assert views == [("CC", "R"), ("MLO", "R"), ("CC", "L"), ("MLO", "L")]


def test_a_series_has_the_geometry_of_a_volume_and_file_names_without_order(tmp_path: Path) -> None:
    manifest = write_phantoms(tmp_path, modality="mri", num_patients=4, seed=1, size=40, images=(9, 9), series=True)
    row = rows_of(manifest)[0]
    files = sorted((manifest.parent / row["file"]).iterdir())
    slices = [pydicom.dcmread(file) for file in files]
    heights = [float(one.ImagePositionPatient[2]) for one in slices]
    order = np.argsort(heights)
    assert list(order) != list(range(9))
    assert np.allclose(np.diff(np.sort(heights)), slices[0].SpacingBetweenSlices)
    assert len({one.SeriesInstanceUID for one in slices}) == 1 == len({tuple(one.PixelSpacing) for one in slices})
    assert len({one.SOPInstanceUID for one in slices}) == 9
    assert {one.PatientID for one in slices} == {row["exam_id"]}
    stored = [slices[place].pixel_array // 4 for place in order]
    assert all(
        np.abs(read_picture(files[place]).pixels.astype(int) - pixels).max() <= 1
        for place, pixels in zip(order, stored, strict=True)
    )


def test_what_cannot_be_an_exam_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"synthetic volumes are MRI series .* got the modality ultrasound"):
        write_phantoms(tmp_path, modality="ultrasound", num_patients=4, seed=0, images=(3, 3), series=True)
    with pytest.raises(DataError, match=r"cannot have 4 to 2 images: give the fewest, then the most\.$"):
        write_phantoms(tmp_path, modality="mri", num_patients=4, seed=0, images=(4, 2))
    for phantom, told in (
        ({"images": [4, 2]}, "give the fewest, then the most"),
        ({"series": True}, "set images to the number of slices"),
        ({"images": 4, "series": True}, "the modality is ultrasound"),
        ({"other_lesions": 0.5}, "images is not given: set images"),
    ):
        tree = {"site": "north", "modality": "ultrasound", "data": {"phantom": {"patients": 20, **phantom}}}
        with pytest.raises(ConfigError, match=told):
            site_of(tree, "site.toml")
