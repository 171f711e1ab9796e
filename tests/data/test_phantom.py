"""Synthetic images: the same seed gives the same bytes, and only the outline depends on the label."""

from collections import Counter
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config.modalities import modality_of
from cdtl_core.data.manifest import read_manifest
from cdtl_core.data.synthetic import phantom
from cdtl_core.data.synthetic.phantom import MODALITIES, draw_patient, render_phantom, render_view
from cdtl_core.data.synthetic.writing import write_phantoms
from cdtl_core.errors import DataError

LABELS = ("benign", "malignant")


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative."""
    return float(np.mean(scores[positive][:, None] > scores[~positive][None, :]))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def labels_of_patients(manifest: Path) -> dict[str, int]:
    return {case.patient: case.label for case in read_manifest(manifest, labels=LABELS)}


@pytest.mark.parametrize("modality", MODALITIES)
def test_same_seed_writes_the_same_bytes_and_another_seed_other_images(tmp_path: Path, modality: str) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_phantoms(tmp_path / name, modality=modality, num_patients=5, seed=seed, size=48)
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert not set(one.values()) & set(three.values())


def test_writing_twice_in_one_folder_changes_nothing(tmp_path: Path) -> None:
    write_phantoms(tmp_path, modality="mri", num_patients=4, seed=0, size=32)
    before = contents(tmp_path)
    write_phantoms(tmp_path, modality="mri", num_patients=4, seed=0, size=32)
    assert contents(tmp_path) == before


def test_patients_and_labels_do_not_depend_on_how_many_follow(tmp_path: Path) -> None:
    few = write_phantoms(tmp_path / "few", modality="ultrasound", num_patients=6, seed=1, size=32)
    many = write_phantoms(tmp_path / "many", modality="ultrasound", num_patients=11, seed=1, size=32)
    assert contents(few.parent / "images").items() <= contents(many.parent / "images").items()
    assert labels_of_patients(few).items() <= labels_of_patients(many).items()


@pytest.mark.parametrize(("num_patients", "prevalence"), [(4, 0.4), (7, 0.4), (25, 0.4), (10, 0.5), (9, 0.0), (5, 1.0)])
def test_malignant_patients_are_counted_exactly(tmp_path: Path, num_patients: int, prevalence: float) -> None:
    manifest = write_phantoms(
        tmp_path, modality="mri", num_patients=num_patients, seed=2, size=16, prevalence=prevalence
    )
    assert Counter(labels_of_patients(manifest).values())[1] == round(prevalence * num_patients)


def test_manifest_lists_every_image_with_one_label_and_one_or_two_views_a_patient(tmp_path: Path) -> None:
    manifest = write_phantoms(tmp_path, modality="mammography", num_patients=30, seed=5, size=16)
    cases = read_manifest(manifest, labels=LABELS)
    assert manifest == tmp_path / "manifest.csv"
    assert manifest.read_text().splitlines()[0] == "file,label,patient_id"
    assert {case.file for case in cases} == set((tmp_path / "images").iterdir())
    assert len(labels_of_patients(manifest)) == len({(case.patient, case.label) for case in cases}) == 30
    assert set(Counter(case.patient for case in cases).values()) == {1, 2}


def test_names_and_order_do_not_tell_the_label(tmp_path: Path) -> None:
    manifest = write_phantoms(tmp_path, modality="mri", num_patients=200, seed=6, size=16)
    cases = read_manifest(manifest, labels=LABELS)
    malignant = np.array([case.label == 1 for case in cases])
    names = np.array([int(case.file.stem, 16) for case in cases], dtype=float)
    assert 0.38 < auroc(names, malignant) < 0.62
    assert 0.38 < auroc(np.arange(len(cases), dtype=float), malignant) < 0.62


def test_a_killed_write_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_phantoms(tmp_path, modality="mri", num_patients=4, seed=0, size=16)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path, modality="mri", num_patients=4, seed=1, size=16)
    assert not (tmp_path / "manifest.csv").exists()


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("size", [32, 96])
def test_images_are_gray_or_colour_as_the_modality_is(modality: str, size: int) -> None:
    image = render_phantom(modality, True, np.random.default_rng(0), size)
    assert image.dtype == np.uint8
    assert image.shape == ((size, size, 3) if modality_of(modality).colour else (size, size))
    assert image.std() > 5.0


def test_the_classes_overlap_in_irregularity() -> None:
    rng = np.random.default_rng(0)
    malignant = np.arange(4000) % 2 == 1
    irregularity = np.array([draw_patient(bool(label), rng).irregularity for label in malignant])
    assert auroc(irregularity, malignant) == pytest.approx(0.961, abs=0.01)  # Phi(2.5 / sqrt 2)


def test_lesion_area_does_not_depend_on_the_outline() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        patient = draw_patient(seed % 2 == 1, rng)
        scene = phantom.draw_scene(patient, rng, 256)
        assert scene.inside.sum() == pytest.approx(np.pi * (256 * patient.radius) ** 2, rel=0.02)


@pytest.mark.parametrize("modality", MODALITIES)
def test_brightness_and_contrast_do_not_tell_the_label(modality: str) -> None:
    rng = np.random.default_rng(crc32(modality.encode()))
    malignant = np.arange(240) % 2 == 1
    images = np.stack([render_phantom(modality, bool(label), rng, 48) for label in malignant]).astype(float)
    pixels = images.reshape(len(images), -1)
    for statistic in (pixels.mean(axis=1), pixels.std(axis=1), np.quantile(pixels, 0.1, axis=1)):
        assert 0.38 < auroc(statistic, malignant) < 0.62


def test_two_views_of_a_patient_are_different_images_of_a_like_lesion() -> None:
    rng = np.random.default_rng(1)
    patient = draw_patient(True, rng)
    first, second = (phantom._ripple(patient, rng) for _ in range(2))
    other = phantom._ripple(draw_patient(True, rng), rng)
    assert np.corrcoef(first, second)[0, 1] > 0.6 > abs(np.corrcoef(first, other)[0, 1])
    assert not np.array_equal(render_view("mri", patient, rng, 32), render_view("mri", patient, rng, 32))


def test_what_cannot_be_rendered_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'sonar': use one of ultrasound, mammography, histology, mri\.$"):
        render_phantom("sonar", False, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"'sonar'"):
        write_phantoms(tmp_path, modality="sonar", num_patients=9, seed=0)
    with pytest.raises(DataError, match=r"at least 4 patients, got 3: ask for 4 or more\.$"):
        write_phantoms(tmp_path, modality="mri", num_patients=3, seed=0)
    with pytest.raises(DataError, match=r"got 1\.5: give a number from 0 to 1\.$"):
        write_phantoms(tmp_path, modality="mri", num_patients=9, seed=0, prevalence=1.5)
    assert list(tmp_path.iterdir()) == []
