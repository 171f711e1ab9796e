"""Exams, series, views and sides in the manifest that is made of a hospital's folders."""

import csv
from pathlib import Path

import pytest

from cdtl_core.data.listing.folders import list_folders
from cdtl_core.data.listing.labelled import list_labelled
from cdtl_core.data.source import Row, rows_of_manifest, write_manifest
from cdtl_core.errors import DataError
from tests.data.volumes import ramp, write_series, write_slice
from tests.data.written import dicom, png, table


def breast(path: Path, patient: str, study: str, side: str, view: str) -> None:
    dicom(path, patient, modality="MG", StudyInstanceUID=study, ImageLaterality=side, ViewPosition=view)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Two studies of one CT series each, with a note of the viewer beside the slices."""
    for number, label in enumerate(("benign", "malignant"), start=1):
        folder = tmp_path / "images" / label / f"P{number}" / "S1"
        write_series(
            folder, ramp(3), SeriesInstanceUID=f"1.{number}", StudyInstanceUID=f"2.{number}", PatientID=f"P{number}"
        )
        (folder / "README.txt").write_text("made by a viewer")
    return tmp_path / "images"


def test_a_folder_of_slices_is_one_row_with_its_study_as_exam(series: Path) -> None:
    found = list_folders(series, series=True)
    assert [(row.file.relative_to(series).as_posix(), row.label, row.patient, row.exam) for row in found.rows] == [
        ("benign/P1/S1", "benign", "P1", "2.1"),
        ("malignant/P2/S1", "malignant", "P2", "2.2"),
    ]
    assert any("6 slices are listed as 2 series" in note for note in found.notes)
    assert [row.exam for row in list_folders(series, series=True, exams="series").rows] == ["1.1", "1.2"]


def test_without_that_option_each_slice_is_a_row_and_a_note_names_it(series: Path) -> None:
    found = list_folders(series)
    assert len(found.rows) == 6
    assert any("6 slices in 2 folders are listed one by one: with --series" in note for note in found.notes)


def test_slices_of_two_series_in_a_folder_are_refused(series: Path) -> None:
    write_slice(series / "benign" / "P1" / "S1" / "X", ramp(1)[0], (0, 0, 90), SeriesInstanceUID="9.9")
    with pytest.raises(DataError, match=r"several DICOM series are in one folder \(benign/P1/S1\): put each series"):
        list_folders(series, series=True)


@pytest.mark.parametrize("key", ["SeriesInstanceUID", "StudyInstanceUID"])
def test_a_table_may_name_series_or_studies(series: Path, tmp_path: Path, key: str) -> None:
    first = {"SeriesInstanceUID": "1.1", "StudyInstanceUID": "2.1"}[key]
    labels = table(tmp_path / "labels.csv", f"{key},label", f"{first},benign")
    rows = list_labelled(series, labels, series=True).rows
    assert [(row.file.name, row.label, row.exam) for row in rows] == [("S1", "benign", "2.1")]


def test_a_table_that_gives_a_patient_two_exams_is_refused(series: Path, tmp_path: Path) -> None:
    """The images of the second would be put into the first."""
    labels = table(tmp_path / "labels.csv", "patient_id,exam_id,label", "P1,e1,benign", "P1,e2,benign")
    with pytest.raises(DataError, match=r"gives two exams to one patient_id: name the images of each exam by file or"):
        list_labelled(series, labels, series=True)


def test_views_and_sides_of_the_headers_are_columns(tmp_path: Path) -> None:
    for view in ("CC", "MLO"):
        for side in ("L", "R"):
            breast(tmp_path / "in" / "benign" / f"{side}{view}", "P1", "7.1", side, view)
    png(tmp_path / "in" / "benign" / "x.png")
    write_manifest(tmp_path / "in" / "manifest.csv", list_folders(tmp_path / "in").rows)
    lines = csv.DictReader((tmp_path / "in" / "manifest.csv").read_text().splitlines())
    told = [(line["file"], line["exam_id"], line["view"], line["laterality"]) for line in lines]
    assert told == [
        ("benign/LCC", "7.1", "CC", "L"),
        ("benign/LMLO", "7.1", "MLO", "L"),
        ("benign/RCC", "7.1", "CC", "R"),
        ("benign/RMLO", "7.1", "MLO", "R"),
        ("benign/x.png", "", "", ""),
    ]
    assert [row.exam for row in rows_of_manifest(tmp_path / "in" / "manifest.csv")] == ["7.1"] * 4 + [""]


def test_left_and_right_are_exams_of_their_own_where_their_labels_differ(tmp_path: Path) -> None:
    for patient, (left, right) in {"P1": ("benign", "malignant"), "P2": ("benign", "benign")}.items():
        for view in ("CC", "MLO"):
            breast(tmp_path / left / f"{patient}L{view}", patient, f"7.{patient[1]}", "L", view)
            breast(tmp_path / right / f"{patient}R{view}", patient, f"7.{patient[1]}", "R", view)
    found = list_folders(tmp_path)
    assert {row.file.name[:3]: row.exam for row in found.rows} == {
        "P1L": "7.1-L",
        "P1R": "7.1-R",
        "P2L": "7.2-L",
        "P2R": "7.2-R",
    }
    assert any("left and right are exams of their own" in note for note in found.notes)


def test_a_table_with_sides_labels_each_side(tmp_path: Path) -> None:
    for side in ("L", "R"):
        breast(tmp_path / "in" / f"{side}CC", "P1", "7.1", side, "CC")
    labels = table(tmp_path / "labels.csv", "PatientID,laterality,label", "P1,left,benign", "P1,right,malignant")
    rows = list_labelled(tmp_path / "in", labels).rows
    assert [(row.label, row.exam, row.more["laterality"]) for row in rows] == [
        ("benign", "7.1-L", "L"),
        ("malignant", "7.1-R", "R"),
    ]


def test_a_study_whose_images_have_different_labels_is_no_exam_and_a_note_says_so(tmp_path: Path) -> None:
    dicom(tmp_path / "benign" / "a", "P1", StudyInstanceUID="7.1")
    dicom(tmp_path / "malignant" / "b", "P1", StudyInstanceUID="7.1")
    dicom(tmp_path / "malignant" / "c", "P2", StudyInstanceUID="7.2")
    found = list_folders(tmp_path)
    assert [row.exam for row in found.rows] == ["", "", "7.2"]
    assert any("1 DICOM studies have images with different labels" in note for note in found.notes)


def test_a_pattern_finds_exam_view_and_side(tmp_path: Path) -> None:
    for name in ("benign/P1_e1_L_CC.png", "benign/P1_e1_R_CC.png", "malignant/P2_e2_left_MLO.png"):
        png(tmp_path / name)
    rows = list_folders(tmp_path, "{patient}_{exam}_{laterality}_{view}.png").rows
    assert [(row.patient, row.exam, row.more["laterality"], row.more["view"]) for row in rows] == [
        ("P1", "e1", "L", "CC"),
        ("P1", "e1", "R", "CC"),
        ("P2", "e2", "left", "MLO"),
    ]


@pytest.mark.parametrize("name", ["P1.nii", "P1.nii.gz", "P1.NII.GZ", "P1.svs", "P1.ndpi"])
def test_volumes_and_slides_are_known_by_their_endings(tmp_path: Path, name: str) -> None:
    table(tmp_path / "benign" / name, "x")
    (row,) = list_folders(tmp_path, "{patient}.*").rows
    assert (row.file.name, row.label, row.patient) == (name, "benign", "P1")


def test_a_manifest_without_exams_has_no_column_for_them(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.csv", [Row(tmp_path / "a.png", "benign", "P1")])
    assert (tmp_path / "manifest.csv").read_text().startswith("file,label,patient_id,split,group\n")
