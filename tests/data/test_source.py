"""Rows from manifests, class folders and tables of labels, and the manifest written from them."""

import csv
from pathlib import Path

import pytest

from cdtl_core.data.listing.folders import list_folders
from cdtl_core.data.listing.labelled import list_labelled
from cdtl_core.data.source import Row, rows_of_manifest, write_manifest
from cdtl_core.errors import DataError
from cdtl_core.inference.asked import asked_for
from tests.data.volumes import ramp, write_nifti
from tests.data.written import dicom, png, table


def test_class_folders_give_labels_and_a_pattern_the_patients(tmp_path: Path) -> None:
    for name in ("benign/P01_left.png", "benign/P01_right.png", "malignant/deep/P02_left.png", "malignant/notes.txt"):
        (png if name.endswith("png") else lambda path: path.touch())(tmp_path / name)
    rows = list_folders(tmp_path, r"(P\d+)_").rows
    assert [(row.file.name, row.label, row.patient) for row in rows] == [
        ("P01_left.png", "benign", "P01"),
        ("P01_right.png", "benign", "P01"),
        ("P02_left.png", "malignant", "P02"),
    ]
    assert {row.patient for row in list_folders(tmp_path).rows} == {""}


def test_a_dicom_files_patient_is_its_own_unless_a_pattern_finds_another(tmp_path: Path) -> None:
    dicom(tmp_path / "benign" / "IM0001", "MRN-7")
    dicom(tmp_path / "benign" / "P3" / "IM0002", "MRN-7")
    assert {row.patient for row in list_folders(tmp_path).rows} == {"MRN-7"}
    assert {row.patient for row in list_folders(tmp_path, "{label}/{patient}/*").rows} == {"P3"}
    assert [row.patient for row in list_folders(tmp_path, "/(P[0-9])/").rows] == ["MRN-7", "P3"]


@pytest.mark.parametrize("column", ["PatientID", "patient_id", "AccessionNumber", "SOPInstanceUID"])
def test_a_dicom_tree_joins_with_a_table_on_any_of_three_keys(tmp_path: Path, column: str) -> None:
    uids = [dicom(tmp_path / "study" / f"IM{i}", f"P{i}", f"A{i}") for i in range(3)]
    patients = ["P0", "P1"]
    keys = {"AccessionNumber": ["A0", "A1"], "SOPInstanceUID": uids[:2]}.get(column, patients)
    labels = table(
        tmp_path / "labels.csv",
        f"{column},label,split",
        f"{keys[0]},benign,",
        f"{keys[1]},malignant,test",
        "none,benign,",
    )
    found = list_labelled(tmp_path / "study", labels)
    assert [(row.label, row.patient, row.split) for row in found.rows] == [
        ("benign", "P0", ""),
        ("malignant", "P1", "test"),
    ]
    assert any("1 image has no label" in note and "IM2" in note for note in found.notes)
    assert any("1 of the 3 keys" in note and "have no image" in note for note in found.notes)


@pytest.mark.parametrize(
    ("header", "lines", "says"),
    [
        ("person,label", ["P0,benign"], "needs label and one of"),
        ("PatientID,diagnosis", ["P0,benign"], "--column label=diagnosis"),
        ("PatientID,label", ["P0,benign", "P0,malignant"], "two labels"),
        ("file,label", ["IM0,benign", "study/IM0,malignant"], "two labels"),
        ("PatientID,label", ["P9,benign"], "no image"),
        ("", [], r"columns \(none\)"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, header: str, lines: list[str], says: str) -> None:
    dicom(tmp_path / "study" / "IM0", "P0")
    with pytest.raises(DataError, match=says):
        list_labelled(tmp_path / "study", table(tmp_path / "labels.csv", header, *lines))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "not a regular expression"),
        ("P[0-9]", "has no group"),
        ("(?P<person>P)", "has no group"),
        ("{label}/{person}/*", "is no template"),
        ("{label}/{label}/*", "is no template"),
        ("{label}/x/*", "no path in"),
    ],
)
def test_a_wrong_pattern_is_refused(tmp_path: Path, pattern: str, says: str) -> None:
    png(tmp_path / "benign" / "a.png")
    with pytest.raises(DataError, match=says):
        list_folders(tmp_path, pattern)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        list_folders(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        list_folders(tmp_path / "none")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_as_spreadsheets_save_it(tmp_path: Path, encoding: str, separator: str) -> None:
    lines = ("file", "label", "patient_id"), ('"a b.png"', "ñandú", "P1")
    text = "".join(separator.join(line) + "\r\n" for line in lines)
    (tmp_path / "manifest.csv").write_bytes(text.encode(encoding))
    (row,) = rows_of_manifest(tmp_path / "manifest.csv")
    assert (row.file.name, row.label, row.patient) == ("a b.png", "ñandú", "P1")


def test_what_is_written_is_read_back_with_every_column(tmp_path: Path) -> None:
    rows = [
        Row(png(tmp_path / "a, b.png"), "benign", "p1", "test", "g", {"scanner": 'GE "7"'}),
        Row(png(tmp_path / "deep" / "c.png"), "malignant", "p2", more={"age": "40"}),
    ]
    write_manifest(tmp_path / "manifest.csv", rows)
    assert [line["file"] for line in csv.DictReader((tmp_path / "manifest.csv").read_text().splitlines())] == [
        "a, b.png",
        "deep/c.png",
    ]
    again = rows_of_manifest(tmp_path / "manifest.csv")
    assert [(row.file, row.label, row.patient, row.split, row.group) for row in again] == [
        (row.file, row.label, row.patient, row.split, row.group) for row in rows
    ]
    assert again[0].more == {"scanner": 'GE "7"', "age": ""}


def test_a_row_without_a_file_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "manifest.csv", "file,label,patient_id", "a.png,benign,1", ",benign,2")
    with pytest.raises(DataError, match="has a row without a file"):
        rows_of_manifest(path)
    with pytest.raises(DataError, match="has a row without a file"):
        asked_for([path], "image")


def test_a_table_names_packed_volumes_without_their_ending(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", ramp(2))
    labels = table(tmp_path / "labels.csv", "file,label,patient_id", "a,benign,1", "b,malignant,2")
    rows = list_labelled(tmp_path / "images", labels).rows
    assert {row.file.name: row.label for row in rows} == {"a.nii.gz": "benign", "b.nii.gz": "malignant"}
