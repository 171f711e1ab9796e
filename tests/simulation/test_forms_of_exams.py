"""A federation whose sites have series, multi-frame files, NIfTI volumes, slides and views: one label for each exam."""

import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import SimulationConfig
from cdtl_core.data.source import Row, write_manifest
from cdtl_core.simulation.simulate import simulate
from cdtl_core.site.cohort import open_cohort
from tests.data.volumes import write_enhanced, write_nifti, write_series, write_slide

pytestmark = pytest.mark.skipif(
    not (find_spec("nibabel") and find_spec("tiffslide")), reason="not installed: pip install 'cdtl[nifti,slides]'"
)

PATIENTS = 14
LABELS = ("benign", "malignant")


def _volume(number: int) -> np.ndarray:
    """Six slices; malignant ones have a bright square on one of them."""
    rng = np.random.default_rng(number)
    found = rng.integers(0, 300, (6, 32, 32)).astype(np.int16)
    if number % 2:
        found[number % 6, 8:24, 8:24] += 600
    return found


def _mri(folder: Path, number: int) -> list[Row]:
    forms: list[Callable[[], Path]] = [
        lambda: write_series(folder / f"S{number}", _volume(number)),
        lambda: write_enhanced(folder / f"M{number}.dcm", _volume(number), (5, 0, 3, 1, 4, 2)),
        lambda: write_nifti(folder / f"N{number}.nii.gz", _volume(number)),
    ]
    return [Row(forms[number % 3](), LABELS[number % 2], f"P{number}")]


def _slides(folder: Path, number: int) -> list[Row]:
    pixels = np.tile(np.array([243, 242, 244], np.uint8), (512, 512, 1))
    pixels[: 128 + 32 * (number % 4), :256] = (210, 110 + 40 * (number % 2), 170)
    return [Row(write_slide(folder / f"W{number}.tiff", pixels, um=1.0, levels=2), LABELS[number % 2], f"P{number}")]


def _views(folder: Path, number: int) -> list[Row]:
    """Four views; the label stands on one of them."""
    rows = []
    for view in range(4):
        file = folder / f"V{number}-{view}.png"
        Image.fromarray((_volume(number)[view] // 4).astype(np.uint8)).save(file)
        rows.append(Row(file, LABELS[number % 2] if view == 2 else "", f"P{number}", exam=f"E{number}"))
    return rows


@pytest.fixture
def sites(tmp_path: Path) -> list[dict[str, Any]]:
    found = []
    for site, modality, write, data in (
        ("alba", "mri", _mri, {"slices": "1:6"}),
        ("bari", "histology", _slides, {}),
        ("como", "mammography", _views, {}),
    ):
        folder = tmp_path / site
        folder.mkdir()
        write_manifest(folder / "manifest.csv", [row for number in range(PATIENTS) for row in write(folder, number)])
        given = {"root": str(folder), "manifest": "manifest.csv", **data}
        found.append({"site": site, "modality": modality, "data": given})
    return found


def test_every_form_of_an_exam_is_trained_and_scored_once(
    tiny: Callable[..., SimulationConfig], sites: list[dict[str, Any]], tmp_path: Path
) -> None:
    config = tiny(sites=sites, methods=("cdtl",), task={"unit": "exam"}, model={"pooling": "attention"})
    simulate(config, tmp_path / "run")
    images = {}
    for site in ("alba", "bari", "como"):
        cohort = open_cohort(tmp_path / "run" / "sites" / site, config.run)
        assert sum(fold.num_units for fold in cohort.folds.values()) == PATIENTS
        images[site] = sorted({int(length) for fold in cohort.folds.values() for length in fold.lengths})
        (scores,) = (tmp_path / "run" / "sites" / site / "models").glob("*/scores.csv")
        with open(scores, newline="") as file:
            assert len(list(csv.DictReader(file))) == cohort.folds["test"].num_units
    assert images["alba"] == [5]
    assert len(images["bari"]) == 4
    assert images["como"] == [4]
