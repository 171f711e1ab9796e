"""Rows from manifests, class folders and DICOM trees, and the manifest written from them."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cdtl_core.data.source import Row, rows_of_dicom, rows_of_folders, rows_of_manifest, write_manifest
from cdtl_core.errors import DataError


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def dicom(path: Path, patient: str, accession: str = "", uid: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientID, dataset.AccessionNumber, dataset.Modality = patient, accession, "US"
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 4, 4, 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = bytes(range(16))
    dataset.save_as(path)
    return str(dataset.SOPInstanceUID)


def table(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_class_folders_give_labels_and_a_pattern_the_patients(tmp_path: Path) -> None:
    for name in ("benign/P01_left.png", "benign/P01_right.png", "malignant/deep/P02_left.png", "malignant/notes.txt"):
        (png if name.endswith("png") else lambda path: path.touch())(tmp_path / name)
    rows = rows_of_folders(tmp_path, patient_pattern=r"(P\d+)_")
    assert [(row.file.name, row.label, row.patient) for row in rows] == [
        ("P01_left.png", "benign", "P01"),
        ("P01_right.png", "benign", "P01"),
        ("P02_left.png", "malignant", "P02"),
    ]
    assert {row.patient for row in rows_of_folders(tmp_path)} == {""}


def test_a_dicom_files_patient_is_its_own(tmp_path: Path) -> None:
    dicom(tmp_path / "benign" / "IM0001", "MRN-7")
    assert rows_of_folders(tmp_path)[0].patient == "MRN-7"


@pytest.mark.parametrize("column", ["PatientID", "AccessionNumber", "SOPInstanceUID"])
def test_a_dicom_tree_joins_with_a_table_on_any_of_three_columns(tmp_path: Path, column: str) -> None:
    uids = [dicom(tmp_path / "study" / f"IM{i}", f"P{i}", f"A{i}") for i in range(3)]
    keys = {"PatientID": ["P0", "P1"], "AccessionNumber": ["A0", "A1"], "SOPInstanceUID": uids[:2]}[column]
    labels = table(
        tmp_path / "labels.csv",
        f"{column},label,split",
        f"{keys[0]},benign,",
        f"{keys[1]},malignant,test",
        "none,benign,",
    )
    rows, notes = rows_of_dicom(tmp_path / "study", labels)
    assert [(row.label, row.patient, row.split) for row in rows] == [("benign", "P0", ""), ("malignant", "P1", "test")]
    assert any("IM2" in note and "does not list" in note for note in notes)
    assert any("1 of the table's 3 keys have no image" in note for note in notes)


@pytest.mark.parametrize(
    ("header", "lines", "says"),
    [
        ("patient,label", ["P0,benign"], "needs the column label and one of"),
        ("PatientID,diagnosis", ["P0,benign"], "needs the column label"),
        ("PatientID,label", ["P0,benign", "P0,malignant"], "two labels"),
        ("PatientID,label", ["P9,benign"], "no image"),
        ("PatientID,label", [], "needs the column"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, header: str, lines: list[str], says: str) -> None:
    dicom(tmp_path / "study" / "IM0", "P0")
    with pytest.raises(DataError, match=says):
        rows_of_dicom(tmp_path / "study", table(tmp_path / "labels.csv", header, *lines))


@pytest.mark.parametrize(("pattern", "says"), [("(", "not a regular expression"), ("P[0-9]", "has no group")])
def test_a_wrong_pattern_is_refused(tmp_path: Path, pattern: str, says: str) -> None:
    png(tmp_path / "benign" / "a.png")
    with pytest.raises(DataError, match=says):
        rows_of_folders(tmp_path, patient_pattern=pattern)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="no class folders"):
            rows_of_folders(folder)


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
