"""Folders as hospitals have them become a manifest, or the one sentence that says which option settles it."""

import csv
import json
import shlex
from pathlib import Path

import pytest

from tests.conftest import Cdtl
from tests.data.written import dicom, png, table

MAKE = ("data", "make-manifest", "images")


def listed(path: str = "images/manifest.csv") -> list[tuple[str, str, str]]:
    with open(path, newline="") as file:
        return [(row["file"], row["label"], row["patient_id"]) for row in csv.DictReader(file)]


def class_folders(patients: int = 4) -> None:
    for label in ("benigno", "maligno"):
        for number in range(patients):
            for image in ("a.png", "b.png"):
                png(Path("images") / label / f"{label[0].upper()}{number:03d}" / image)


def test_a_patient_folder_below_the_class_is_the_patient(cdtl: Cdtl) -> None:
    class_folders()
    done = cdtl(*MAKE)
    assert done.code == 0, done.err
    assert "images/<label>/<patient>/<image>" in done.out
    assert "16 images of 8 patients: 8 benigno, 8 maligno" in done.out
    assert listed()[0] == ("benigno/B000/a.png", "benigno", "B000")
    assert "would refuse" not in done.out


def test_folders_of_views_are_not_taken_for_patients(cdtl: Cdtl) -> None:
    for label in ("benign", "malignant"):
        for view in ("left", "right"):
            for number in range(3):
                png(Path("images") / label / view / f"{number}.png")
    done = cdtl(*MAKE)
    assert done.code == 0
    assert {patient for *_, patient in listed()} == {""}
    assert "left, right" in done.err
    assert "--patient-pattern '{label}/{patient}/*'" in done.err
    assert "cdtl data check would refuse" in done.out
    assert "12 of 12 images have no patient id" in done.out


def test_site_init_says_where_the_patients_may_be_if_the_manifest_lacks_them(cdtl: Cdtl) -> None:
    for number in range(6):
        png(Path("images") / ("benign", "malignant")[number % 2] / f"P{number}_1.png", seed=number)
    init = ("site", "init", "north", "--name", "north", "--modality", "mri", "--data")
    done = cdtl(*init, "images")
    assert (done.code, done.err.count("\n")) == (4, 2), done.err
    assert "If 'P0' in P0_1.png is the patient (6 in all), add --patient-pattern '{patient}_*'." in done.err
    rows = [f"{path.relative_to('images')},{path.parent.name}," for path in Path("images").glob("*/*.png")]
    Path("images/manifest.csv").write_text("\n".join(["file,label,patient_id", *rows]) + "\n")
    told = " ".join(cdtl(*init, "images").err.split())
    command = told.partition("write another manifest with cdtl ")[2].partition(", and give --data new.csv.")[0]
    written = cdtl(*shlex.split(command))
    assert "6 images of 6 patients" in written.out, written.err
    assert "in P0_1.png" not in cdtl(*init, "new.csv").err


@pytest.mark.parametrize(
    ("pattern", "path", "label", "patient"),
    [
        ("{label}/{patient}/*", "benign/left/1.png", "benign", "left"),
        ("{patient}/{label}", "P1/benign/deep/1.png", "benign", "P1"),
        ("{label}/*/{patient}_*", "benign/x/P7_2.png", "benign", "P7"),
        ("{patient}_*.png", "benign/P7_2.png", "benign", "P7"),
        (r"/(P\d+)/", "benign/P12/1.png", "benign", "P12"),
        (r"^(P\d+)_", "benign/P12_x.png", "benign", "P12"),
        (r"(P\d+)", "benign/P12/x.png", "benign", "P12"),
        (r"(?P<patient>P\d+)/(?P<label>\w+)/", "P12/benign/x.png", "benign", "P12"),
        ("{split}/{label}/{patient}-*", "train/benign/P3-1.png", "benign", "P3"),
    ],
)
def test_a_template_or_an_expression_finds_the_patient_in_the_path(
    cdtl: Cdtl, pattern: str, path: str, label: str, patient: str
) -> None:
    png(Path("images") / path)
    done = cdtl(*MAKE, "--patient-pattern", pattern)
    assert done.code == 0, done.err
    assert listed() == [(path, label, patient)]


def test_patient_folders_of_dicom_never_become_classes(cdtl: Cdtl) -> None:
    for number in range(94):
        dicom(Path("images") / f"DOE{chr(65 + number % 26)}{number // 26}" / "IM1", f"P{number}")
    done = cdtl(*MAKE)
    assert done.code == 4
    assert done.err.count("\n") == 1
    for words in ("94 folders", "one DICOM patient each", "--labels TABLE", "PatientID", "'{label}/**'"):
        assert words in done.err
    assert not Path("images/manifest.csv").exists()
    assert cdtl("data", "check", "images", "--modality", "ultrasound").code == 4
    sure = cdtl(*MAKE, "--patient-pattern", "{label}/**", "--json")
    assert (sure.code, len(json.loads(sure.out)["labels"])) == (0, 94)


def test_patient_folders_of_images_never_become_classes_and_the_order_is_found(cdtl: Cdtl) -> None:
    for number in range(30):
        png(Path("images") / f"paciente {number}" / ("benigno" if number % 2 else "maligno") / "1.png")
    done = cdtl(*MAKE)
    assert done.code == 4
    assert "--patient-pattern '{patient}/{label}/*'" in done.err
    assert "benigno, maligno" in done.err
    done = cdtl(*MAKE, "--patient-pattern", "{patient}/{label}/*")
    assert "30 images of 30 patients: 15 benigno, 15 maligno" in done.out


def test_folders_of_splits_are_no_classes(cdtl: Cdtl) -> None:
    for part in ("train", "val", "test"):
        png(Path("images") / part / "benign" / "1.png")
    done = cdtl(*MAKE)
    assert done.code == 4
    assert "'{split}/{label}/*'" in done.err


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_flat_files_join_a_table_of_any_separator(cdtl: Cdtl, separator: str) -> None:
    for number in range(56):
        png(Path("images") / f"{number}.png")
    rows = [separator.join((f"{number}.png", f"P{number}", "benigno")) for number in range(3)]
    table(Path("etiquetas.csv"), separator.join(("archivo", "Paciente", "Diagnóstico")), *rows)
    asked = cdtl(*MAKE, "--labels", "etiquetas.csv")
    assert asked.code == 4
    for words in ("archivo, Paciente, Diagnóstico", "--column file=archivo", "label=Diagn"):
        assert words in asked.err
    options = ("--column", "file=archivo", "--column", "patient_id=Paciente", "--column", "label=Diagnóstico")
    done = cdtl(*MAKE, "--labels", "etiquetas.csv", *options)
    assert done.code == 0, done.err
    assert listed() == [(f"{number}.png", "benigno", f"P{number}") for number in range(3)]
    assert done.err.count("53 images have no label in etiquetas.csv, left out") == 1
    assert done.err.count("\n") == 1
    assert "and 50 more" in done.err


def test_a_table_may_name_files_without_ending_with_folders_or_as_windows_does(cdtl: Cdtl) -> None:
    for name in ("a/1.png", "b/1.png", "2.PNG", "3.jpeg"):
        png(Path("images") / name)
    table(
        Path("t.csv"),
        "file,label,patient_id,Box",
        r"C:\export\a\1.png,x,p1,9",
        "b/1.png,y,p2,",
        "2,x,p3,",
        "3.jpeg,,p4,",
    )
    done = cdtl(*MAKE, "--labels", "t.csv", "--column", "bbox=Box")
    assert done.code == 0, done.err
    assert listed() == [("2.PNG", "x", "p3"), ("a/1.png", "x", "p1"), ("b/1.png", "y", "p2")]
    assert "1 image has no label in t.csv" in done.err
    assert Path("images/manifest.csv").read_text().startswith("file,label,patient_id,split,group,bbox\n")
    table(Path("t.csv"), "file,label", "1.png,x")
    assert "several images" in cdtl(*MAKE, "--force", "--labels", "t.csv").err


def test_a_table_of_patients_joins_folders_of_patients(cdtl: Cdtl) -> None:
    for name in ("P1/a.png", "P1/b.png", "P2/c.png", "P3/d.png"):
        png(Path("images") / name)
    table(Path("t.csv"), "patient_id;label", "P1;benign", "P2;malignant")
    done = cdtl(*MAKE, "--labels", "t.csv")
    assert done.code == 0, done.err
    assert [row[1:] for row in listed()] == [("benign", "P1"), ("benign", "P1"), ("malignant", "P2")]
    assert "1 image has no label" in done.err


def test_a_dicom_export_with_its_index_reports_and_odd_names_joins_a_table(cdtl: Cdtl) -> None:
    for number in range(6):
        dicom(Path("images") / "DICOM" / f"PA{number}" / "ST0" / f"1.2.840.{number}", f"MRN{number}")
        dicom(Path("images") / "DICOM" / f"PA{number}" / "SR0" / "report", f"MRN{number}", image=False)
    png(Path("images") / "logo.png")
    table(Path("images") / "DICOMDIR", "x")
    table(Path("images") / "readme.txt", "x")
    table(Path("t.csv"), "PatientID,label", *(f"MRN{number},{'ab'[number % 2]}" for number in range(6)))
    done = cdtl(*MAKE, "--labels", "t.csv")
    assert done.code == 0, done.err
    assert [row[2] for row in listed()] == [f"MRN{number}" for number in range(6)]
    assert "6 DICOM files hold no image that can be read" in done.err
    assert "1 image has no label" in done.err


def test_a_manifest_is_written_again_with_force_and_its_own_output_is_no_data(cdtl: Cdtl) -> None:
    class_folders()
    assert cdtl(*MAKE).code == 0
    again = cdtl(*MAKE)
    assert again.code == 4
    assert "--force" in again.err
    before = listed()
    done = cdtl(*MAKE, "--force")
    assert done.code == 0, done.err
    assert listed() == before
    own = cdtl(*MAKE, "--force", "--labels", "images/manifest.csv")
    assert (own.code, "--out" in own.err) == (4, True)
    assert listed() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("data", "make-manifest", "nowhere"), "nowhere does not exist"),
        (("data", "make-manifest", "images", "--labels", "none.csv"), "the label table none.csv does not exist"),
        (("data", "make-manifest", "empty"), "no image"),
        (("data", "make-manifest", "flat"), "--labels TABLE"),
        (("data", "make-manifest", "reports"), "1 DICOM file holds no image that can be read"),
        (("data", "make-manifest", "flat", "--patient-pattern", "{patient"), "{patient"),
        (("data", "make-manifest", "flat", "--column", "label=x"), "--labels"),
        (("data", "make-manifest", "flat", "--labels", "t.csv", "--column", "label"), "NAME=YOURS"),
        (("data", "make-manifest", "flat", "--labels", "t.csv", "--column", "label=nope"), "nope"),
    ],
)
def test_what_cannot_be_listed_is_one_sentence(cdtl: Cdtl, arguments: tuple[str, ...], says: str) -> None:
    class_folders(1)
    table(Path("empty/notes.mp4"), "x")
    dicom(Path("reports/benign/SR1"), "P", image=False)
    png(Path("flat/1.png"))
    table(Path("t.csv"), "file,label", "1.png,x")
    done = cdtl(*arguments)
    assert done.code in {3, 4}
    assert says in done.err
    assert done.err.count("\n") == 1


def test_a_manifest_saved_by_a_spreadsheet_is_read(cdtl: Cdtl) -> None:
    class_folders(10)
    assert cdtl(*MAKE).code == 0
    path = Path("images/manifest.csv")
    path.write_bytes(path.read_text().replace(",", ";").replace("benigno;", "ecografía benigna;").encode("cp1252"))
    done = cdtl("data", "check", "images", "--modality", "ultrasound", "--json")
    told = json.loads(done.out)["counts"]["classes"]
    assert {one["label"] for one in told} == {"ecografía benigna", "maligno"}


def again(text: str) -> list[str]:
    """The arguments of the command in the last line."""
    command = shlex.split(text.splitlines()[-1])
    assert command[:3] == ["cdtl", "data", "make-manifest"]
    return command[1:]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("pac{:03d}_{}.png", "{patient}_*"),
        ("P{:03d}-{}.png", "{patient}-*"),
        ("caso {:03d} vista {}.png", None),
        ("hist_{:03d}_{}.png", "*_{patient}_*"),
    ],
)
def test_a_manifest_without_patients_ends_with_the_command_to_give_again(
    cdtl: Cdtl, name: str, pattern: str | None
) -> None:
    for number in range(8):
        for view in (1, 2):
            png(Path("my images") / ("benigno" if number % 2 else "maligno") / name.format(number, view))
    done = cdtl("data", "make-manifest", "my images", "--out", "list.csv")
    assert "16 of 16 images have no patient id" in done.out
    command = again(done.out)
    assert command[-3:] == ["--patient-pattern", pattern or "PATTERN", "--force"]
    if pattern:
        assert json.loads(cdtl(*command, "--json").out)["next"] == ""
        assert len({patient for *_, patient in listed("list.csv")}) == 8


def test_file_names_that_differ_throughout_may_each_be_a_patient(cdtl: Cdtl) -> None:
    for number in range(6):
        png(Path("images") / ("benigno" if number % 2 else "maligno") / f"{number}.png")
    command = again(cdtl(*MAKE).out)
    assert command[-3:] == ["--patient-pattern", "{patient}.*", "--force"]
    assert "6 images of 6 patients" in cdtl(*command).out


@pytest.mark.parametrize("column", ["Paciente", "ID Patient", "Nº paziente", "MRN"])
def test_a_table_with_an_unused_column_of_patients_ends_with_that_column(cdtl: Cdtl, column: str) -> None:
    for number in range(6):
        png(Path("images") / f"img{number}_1.png")
    rows = [f"img{number}_1.png,{'ab'[number % 2]},H{number // 2}" for number in range(6)]
    table(Path("t.csv"), f"file,Pathology,{column}", *rows)
    command = again(cdtl(*MAKE, "--labels", "t.csv", "--column", "label=Pathology").out)
    assert command[-3:] == ["--column", f"patient_id={column}", "--force"]
    assert "6 images of 3 patients" in cdtl(*command).out
    table(Path("t.csv"), "file,label,Pathology", *rows)
    assert again(cdtl(*MAKE, "--force", "--labels", "t.csv").out)[-2] == "{patient}_*"
