"""Manifests: rows that are read, kept, left out and refused."""

from pathlib import Path

import pytest

from cdtl_core.data.manifest import read_manifest
from cdtl_core.errors import CdtlError, ConfigError, DataError

LABELS = ("benign", "malignant")


def manifest(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "manifest.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_files_are_relative_to_the_manifest_and_other_columns_are_no_trouble(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,label,patient_id,scanner\na/1.png,malignant,p1,GE\n2.png,benign,p2,GE\n")
    cases = read_manifest(path, labels=LABELS)
    assert [(case.file, case.label, case.patient) for case in cases] == [
        (tmp_path / "a/1.png", 1, "p1"),
        (tmp_path / "2.png", 0, "p2"),
    ]


def test_a_spreadsheets_byte_order_mark_is_no_trouble(tmp_path: Path) -> None:
    assert (
        len(read_manifest(manifest(tmp_path, "file,label,patient_id\n1.png,benign,p\n", "utf-8-sig"), labels=LABELS))
        == 1
    )


def test_labels_are_mapped_or_left_out_only_when_told(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,label,patient_id\n1,B,p1\n2,M,p2\n3,normal,p3\n")
    cases = read_manifest(path, labels=LABELS, label_map={"B": "benign", "M": "malignant", "normal": ""})
    assert [case.label for case in cases] == [0, 1]
    with pytest.raises(DataError, match=r"label 'normal'.*map it in data\.label_map"):
        read_manifest(path, labels=LABELS, label_map={"B": "benign", "M": "malignant"})


def test_a_map_to_no_label_of_the_task_is_refused_as_such(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,label,patient_id\n1,B,p1\n")
    with pytest.raises(DataError, match="maps 'B' to 'bening'"):
        read_manifest(path, labels=LABELS, label_map={"B": "bening"})


def test_spaces_around_a_patient_make_no_other_patient(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,label,patient_id\n1,benign,p1\n2, benign ,p1 \n")
    assert {case.patient for case in read_manifest(path, labels=LABELS)} == {"p1"}


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"scanner": "GE*"}, ["1", "2"]),
        ({"scanner": ("GE 7", "Siemens")}, ["1", "3"]),
        ({"tissue": ">=0.25"}, ["1", "3"]),
        ({"tissue": "<=0.3", "scanner": "GE*"}, ["2"]),
    ],
)
def test_rows_are_kept_by_pattern_list_or_bound(tmp_path: Path, where: dict[str, object], kept: list[str]) -> None:
    text = "file,label,patient_id,scanner,tissue\n1,benign,a,GE 7,0.9\n2,benign,b,GE 5,0.1\n3,benign,c,Siemens,0.25\n"
    cases = read_manifest(manifest(tmp_path, text), labels=LABELS, where=where)  # type: ignore[arg-type]
    assert [case.file.name for case in cases] == kept


@pytest.mark.parametrize(
    ("text", "where", "kind", "says"),
    [
        ("file,label\n1,benign\n", {}, DataError, "lacks the column patient_id"),
        ("file,label,patient_id\n1,benign,\n", {}, DataError, "no patient_id for 1"),
        ("file,label,patient_id\n1,benign,p\n./1,benign,q\n", {}, DataError, "lists 1 twice"),
        ("file,label,patient_id\n", {}, DataError, "has no image left"),
        ("file,label,patient_id\n1,benign,p\n", {"age": "*"}, ConfigError, "names the column age"),
        ("file,label,patient_id\n1,benign,p\n", {"label": ">=2"}, ConfigError, "needs numbers"),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_sentence(
    tmp_path: Path, text: str, where: dict[str, str], kind: type[CdtlError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        read_manifest(manifest(tmp_path, text), labels=LABELS, where=where)


def test_a_missing_or_binary_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(tmp_path / "none.csv", labels=LABELS)
    (tmp_path / "x.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "x.csv", labels=LABELS)
