"""The unit of a task: images, exams and patients in a manifest, their labels, and their place in a cohort."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import Unit
from cdtl_core.data.cohort import Cohort, Fold, build_cohort
from cdtl_core.data.manifest import Case, read_manifest
from cdtl_core.data.source import Row, rows_of_manifest, write_manifest
from cdtl_core.errors import DataError

LABELS = ("benign", "malignant")
HEADER = "file,label,patient_id,exam_id\n"


def manifest(folder: Path, rows: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text(HEADER + rows)
    return path


def units(folder: Path, rows: str, unit: Unit, **more: object) -> dict[str, tuple[int, list[str]]]:
    """Name of each unit to its label and its files."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in read_manifest(manifest(folder, rows), labels=LABELS, unit=unit, **more):  # type: ignore[arg-type]
        found.setdefault(case.key, []).append(case)
    assert all(len({case.label for case in cases}) == 1 for cases in found.values())
    return {cases[0].name: (cases[0].label, [case.file.name for case in cases]) for cases in found.values()}


ROWS = "1,malignant,p,E1\n2,benign,q,\n3,,p,E1\n4,benign,p,E2\n"


def test_rows_with_an_exam_id_are_one_exam_whose_label_may_stand_on_one_of_them(tmp_path: Path) -> None:
    assert units(tmp_path, ROWS, "exam") == {"E1": (1, ["1", "3"]), "2": (0, ["2"]), "E2": (0, ["4"])}


def test_a_patient_is_all_her_images_and_an_image_is_itself(tmp_path: Path) -> None:
    same = "1,malignant,p,E1\n2,benign,q,\n3,,p,E1\n4,malignant,p,E2\n"
    assert units(tmp_path, same, "patient") == {"1": (1, ["1", "3", "4"]), "2": (0, ["2"])}
    every = "1,malignant,p,E1\n2,benign,p,E1\n"
    assert units(tmp_path, every, "image") == {"1": (1, ["1"]), "2": (0, ["2"])}


@pytest.mark.parametrize(
    ("rows", "unit", "sentence"),
    [
        (ROWS, "patient", r"the patient of 1, 3 the labels 'benign' and 'malignant'.*set task\.unit to exam or image"),
        ("1,benign,p,E\n2,malignant,p,E\n", "exam", r"the exam E \(1, 2\) the labels .*an exam_id each"),
        ("1,,p,E\n2,,p,E\n3,benign,q,\n", "exam", r"no label for the exam E \(1, 2\): write it into one of its rows"),
        ("1,,p,\n", "exam", "no label for 1: write it"),
        ("1,benign,p,E\n2,benign,q,E\n", "exam", r"two patients under the exam E \(1, 2\): give each exam its own"),
        ("1,,p,E\n2,benign,p,E\n", "image", "the label ''"),
        ("1,wrong,p,E\n2,benign,p,E\n", "exam", "the label 'wrong'"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_exam_and_remedy(
    tmp_path: Path, rows: str, unit: Unit, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read_manifest(manifest(tmp_path, rows), labels=LABELS, unit=unit)


def test_images_that_the_label_map_leaves_out_leave_their_exam_if_it_has_no_other_label(tmp_path: Path) -> None:
    rows = "1,normal,p,E1\n2,,p,E1\n3,normal,p,E2\n4,malignant,p,E2\n5,benign,q,\n"
    found = units(tmp_path, rows, "exam", label_map={"normal": ""})
    assert found == {"E2": (1, ["4"]), "5": (0, ["5"])}


def test_a_manifest_keeps_its_exams_and_conditions_see_them(tmp_path: Path) -> None:
    rows = [
        Row(tmp_path / "1.png", "benign", "p", exam="E1"),
        Row(tmp_path / "2.png", "benign", "q", more={"age": "4"}),
    ]
    write_manifest(tmp_path / "m.csv", rows)
    assert [(row.exam, row.more.get("age", "")) for row in rows_of_manifest(tmp_path / "m.csv")] == [
        ("E1", ""),
        ("", "4"),
    ]
    (kept,) = read_manifest(tmp_path / "m.csv", labels=LABELS, where={"exam_id": "E*"})
    assert kept.file.name == "1.png"
    write_manifest(tmp_path / "plain.csv", rows[1:])
    assert "exam_id" not in (tmp_path / "plain.csv").read_text()


def cohort(folder: Path) -> Cohort:
    """Exams of one to three images whose gray values are their numbers; the images of an exam do not stand together."""
    cases = []
    for number, exam in enumerate("abacbbdefdghij"):
        file = folder / f"{number}.png"
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(file)
        cases.append(Case(file, ord(exam) % 2, f"p{exam}", unit=exam, exam=exam))
    split = {f"p{exam}": ("train", "val", "test")[place // 2 % 3] for place, exam in enumerate("abcdefghij")}
    return build_cohort(cases, split, labels=LABELS, size=8, cache=folder / "cache")  # type: ignore[arg-type]


def test_a_fold_holds_all_images_of_its_units_in_order(tmp_path: Path) -> None:
    found = cohort(tmp_path)
    train = found.folds["train"]
    assert found.names(train) == ("a", "b", "g", "h")
    assert train.rows.tolist() == [0, 2, 1, 4, 5, 10, 11]
    assert [int(train.pixels[row, 0, 0, 0]) for row in train.rows] == train.rows.tolist()
    assert train.lengths.tolist() == [2, 3, 1, 1]
    assert train.labels.tolist() == [1, 0, 1, 0]
    assert (train.num_units, train.num_images, train.num_patients) == (4, 7, 4)
    assert found.files[5] == "5.png"
    assert found.units[5] == "b"


def fold() -> Fold:
    return Fold(np.zeros((20, 1, 2, 2), np.uint8), np.arange(10) + 5, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 2]),
                lengths=np.array([3, 1, 2, 4]))  # fmt: skip


def test_units_are_chosen_with_all_their_images() -> None:
    some = fold().where(np.array([3, 0]))
    assert some.rows.tolist() == [11, 12, 13, 14, 5, 6, 7]
    assert some.labels.tolist() == [1, 0]
    assert some.patients.tolist() == [2, 0]
    assert fold().where(np.array([True, False, False, True])).rows.tolist() == [5, 6, 7, 11, 12, 13, 14]
    assert fold().where(np.zeros(4, bool)).num_images == 0
    assert fold().places(np.array([2, 1])).tolist() == [4, 5, 3]


def test_a_units_values_belong_to_each_of_its_images() -> None:
    assert fold().of_images(fold().patients).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert fold().has_several
    assert not fold().where(np.array([1])).has_several


@pytest.mark.parametrize(
    ("most", "rows"), [(1, [6, 8, 10, 13]), (2, [5, 7, 8, 9, 10, 12, 14]), (9, list(range(5, 15)))]
)
def test_a_thinned_fold_has_evenly_spaced_images_of_each_unit(most: int, rows: list[int]) -> None:
    assert fold().thinned(most).rows.tolist() == rows
    assert fold().thinned(most).labels.tolist() == [0, 1, 0, 1]
