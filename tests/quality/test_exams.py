"""Rules about exams: each finds a planted fault, names the exam, and is silent without it."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import Unit
from cdtl_core.quality import CohortCheck, Entry, as_dict, check_list
from cdtl_core.quality.check_source import check_cohort
from tests.data.volumes import SAGITTAL, ramp, write_series, write_slice, write_slide
from tests.quality.planted import look, named, write_cohort

EXAM_RULES = {
    "exam-unlabelled", "exam-two-labels", "exam-two-patients", "exam-two-studies", "missing-slices",
    "series-left-out", "slices-one-by-one", "orientation",
}  # fmt: skip


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, (count, 40, 40)).astype(np.int16)


@pytest.fixture
def series(tmp_path: Path) -> list[Entry]:
    """Six patients with an MR series each; every second is malignant."""
    return [
        Entry(
            write_series(tmp_path / f"mr{i}", noise(4, i), SeriesInstanceUID=f"1.{i}", StudyInstanceUID=f"2.{i}"),
            ("benign", "malignant")[i % 2],
            f"P{i}",
            exam=f"E{i}",
        )
        for i in range(6)
    ]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    return write_cohort(tmp_path_factory.mktemp("films"), patients=60)


@pytest.fixture
def views(films: list[Entry], tmp_path: Path) -> list[Entry]:
    """Thirty exams of two images, to spoil; the label stands on the first."""
    shutil.copytree(films[0].file.parent, tmp_path / "images")
    return [
        replace(
            film,
            file=tmp_path / "images" / film.file.name,
            patient=f"p{i // 2}",
            exam=f"E{i // 2}",
            label=films[i - i % 2].label if i % 2 == 0 else "",
        )
        for i, film in enumerate(films)
    ]


def says(check: CohortCheck, rule: str) -> str:
    return " ".join(f"{one.message} {one.advice}" for one in check.findings if one.rule == rule)


def test_clean_exams_have_no_finding_and_one_label_counts_for_all_images(views: list[Entry]) -> None:
    check = look(views)
    assert not EXAM_RULES & set(named(check))
    assert "label-unknown" not in named(check)
    assert check.counts.exams == 30
    assert sum(one.images for one in check.counts.classes) == 60
    assert check_list(views) == ()


def test_clean_series_are_counted_with_their_slices_and_spacing(series: list[Entry]) -> None:
    check = look(series, modality="mri")
    assert not (EXAM_RULES | {"unreadable", "colour"}) & set(named(check))
    counts = as_dict(check)["counts"]
    assert (counts["volumes"], counts["slices"], list(counts["spacing_mm"])) == (6, 24, [5.0, 5.0, 5.0])


@pytest.mark.parametrize(
    ("change", "rule", "message"),
    [
        ({"label": ""}, "exam-unlabelled", r"the exam 'E0' has no label"),
        ({"label": "malignant"}, "exam-two-labels", r"'E0' has 2 labels: 'benign' \(1 image\) and 'malignant'"),
        ({"patient": "p99"}, "exam-two-patients", r"'E0' has images of 2 patients"),
    ],
)
def test_a_fault_of_the_list_is_found_before_an_image_is_read(
    views: list[Entry], change: dict[str, Any], rule: str, message: str
) -> None:
    spoilt = [replace(views[0], label="" if rule == "exam-unlabelled" else "benign"), replace(views[1], **change)]
    found = [one for one in check_list([*spoilt, *views[2:]]) if one.rule == rule]
    assert [one.files for one in found] == [(views[0].file, views[1].file)]
    assert re.search(message, found[0].message)
    assert found[0].advice.endswith(".")


def test_labels_that_the_site_maps_to_one_do_not_disagree(views: list[Entry]) -> None:
    mapped = [
        replace(one, label=("BI-RADS 4", "BI-RADS 5")[place % 2], task_label="malignant")
        for place, one in enumerate(views[:2])
    ]
    assert not [one for one in check_list([*mapped, *views[2:]]) if one.rule == "exam-two-labels"]


def _two_studies(series: list[Entry]) -> list[Entry]:
    return [replace(series[0], patient="P2", label=series[2].label, exam="E2"), *series[1:]]


def _gap(series: list[Entry]) -> list[Entry]:
    write_slice(series[0].file / "Z", ramp(1, 40, 40)[0], (0, 0, 30), SeriesInstanceUID="1.0", StudyInstanceUID="2.0")
    return series


def _left_out(series: list[Entry]) -> list[Entry]:
    (series[0].file / "VERSION").write_text("7")
    return series


def _turned(series: list[Entry]) -> list[Entry]:
    for place, file in enumerate(sorted(series[0].file.iterdir())):
        turned = {"ImageOrientationPatient": list(SAGITTAL), "SeriesInstanceUID": "1.0", "StudyInstanceUID": "2.0"}
        write_slice(file, noise(4, 0)[place], (place, 0, 0), **turned)
    return series


def _one_by_one(series: list[Entry]) -> list[Entry]:
    return [*(replace(series[0], file=file) for file in sorted(series[0].file.iterdir())), *series[1:]]


def _corrupt(series: list[Entry]) -> list[Entry]:
    path = series[0].file / "IM0003"
    path.write_bytes(path.read_bytes()[:-100])
    return series


def _mixed(series: list[Entry]) -> list[Entry]:
    write_slice(series[0].file / "Z", ramp(1, 40, 40)[0], (0, 0, 30), SeriesInstanceUID="9.9")
    return series


@pytest.mark.parametrize(
    ("spoil", "rule", "message"),
    [
        (_two_studies, "exam-two-studies", "the exam 'E2' has images of 2 DICOM studies"),
        (_gap, "missing-slices", "the exam 'E0' lacks 2 slices between its 5, which are 5 mm apart"),
        (_turned, "orientation", "1 volume is sagittal, 5 are axial"),
        (_left_out, "series-left-out", r"the exam 'E0': 1 file in its folder (VERSION)"),
        (_one_by_one, "slices-one-by-one", "4 slices of 1 DICOM series are listed one by one"),
        (_corrupt, "unreadable", "exam E0: the image"),
        (_corrupt, "unreadable", "has a slice, IM0003, that is truncated"),
        (_mixed, "unreadable", "2 series (4, 1 files): put each series into a folder"),
    ],
)
def test_a_fault_of_the_files_names_the_exam_and_what_to_do(
    series: list[Entry], spoil: Callable[[list[Entry]], list[Entry]], rule: str, message: str
) -> None:
    check = look(spoil(series), modality="mri")
    assert message in says(check, rule)
    others = set(named(check)) & EXAM_RULES - {rule}
    assert others == set()


def test_what_was_not_read_of_a_file_is_said(views: list[Entry], tmp_path: Path) -> None:
    page = Image.fromarray(noise(1, 0)[0].astype(np.uint8))
    page.save(tmp_path / "cine.tiff", save_all=True, append_images=[page, page])
    check = look([*views, Entry(tmp_path / "cine.tiff", "benign", "p99")])
    assert "the frames of 1 file that are not in the middle" in check.not_judged


def test_the_same_series_under_two_exams_is_a_duplicate_by_all_of_its_slices(series: list[Entry]) -> None:
    for place, file in enumerate(sorted(series[0].file.iterdir())):
        (series[1].file / f"IM{place + 1:04d}").write_bytes(file.read_bytes())
    found = named(look(series, modality="mri"))
    assert {"mr0", "mr1"} <= found["opposite-labels"]


def test_images_of_one_exam_may_resemble_each_other(views: list[Entry], tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(views[0].file)).astype(int)
    Image.fromarray(np.clip(pixels + 2, 0, 255).astype(np.uint8)).save(views[1].file)
    assert "near-duplicate" not in named(look(views))
    assert "near-duplicate" in named(look([replace(one, exam="") for one in views]))


def test_a_slide_is_judged_by_a_usual_tile_and_without_tissue_it_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("tiffslide", reason="tiffslide is not installed: pip install 'cdtl[slides]'")
    entries = []
    for number in range(6):
        pixels = np.tile(np.array([243, 242, 244], np.uint8), (1024, 1024, 1))
        rng = np.random.default_rng(number)
        if number:
            pixels[:800, :800] = np.array([190, 100, 160]) + rng.integers(-30, 30, (800, 800, 1))
            pixels[400:500, 400:500] = (190, 100, 160)  # the middle tile shows nothing
        label = ("benign", "malignant")[number % 2]
        entries.append(
            Entry(write_slide(tmp_path / f"{number}.tiff", pixels, um=1.0), label, f"p{number}", exam=f"E{number}")
        )
    check = look(entries, modality="histology")
    assert named(check)["unreadable"] == {"0.tiff"}
    assert "exam E0: the image" in says(check, "unreadable")
    assert "shows no tissue" in says(check, "unreadable")
    assert not {"empty", "colour"} & set(named(check))
    assert check.counts.volumes == 5


@pytest.mark.parametrize(
    ("unit", "rules"),
    [
        ("image", {"label-unknown"}),
        ("exam", {"exam-two-labels", "exam-unlabelled"}),
        ("patient", set()),
    ],
)
def test_the_unit_says_which_images_share_a_label(tmp_path: Path, unit: Unit, rules: set[str]) -> None:
    rows = []
    for number in range(40):
        for image in range(2):
            pixels = np.random.default_rng([number, image]).integers(0, 255, (64, 64), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number}-{image}.png")
            label = ("benign", "malignant")[number % 2] if image == 0 else ""
            rows.append(f"{number}-{image}.png,{label},p{number},e{number}-{image}")
    rows[1] = "0-1.png,benign,p0,e0-1"
    rows[2:4] = ["1-0.png,malignant,p1,e0-1", "1-1.png,malignant,p1,e1-1"]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,label,patient_id,exam_id", *rows]) + "\n")
    found = check_cohort(tmp_path / "manifest.csv", modality="ultrasound", unit=unit)
    about = {"label-unknown", "exam-two-labels", "exam-unlabelled"}
    assert {one.rule for one in found.findings} & about == rules
    assert not any("p1" in one.message.split() for one in found.findings)
