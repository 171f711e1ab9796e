"""`cdtl data` on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdtl_core.data.synthetic.writing import write_phantoms
from tests.conftest import Cdtl
from tests.data.volumes import write_series


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return write_phantoms(tmp_path / "cohort", modality="ultrasound", num_patients=30, seed=5, size=64).parent


def test_a_clean_cohort_passes_and_is_counted(cdtl: Cdtl, cohort: Path) -> None:
    done = cdtl("data", "check", str(cohort), "--modality", "ultrasound", "--json")
    assert done.code == 0, done.out
    result = json.loads(done.out)
    assert result["counts"]["patients"] == 30
    assert not result["has_errors"]
    assert [finding for finding in result["findings"] if finding["severity"] == "error"] == []


def test_faults_are_named_with_what_to_do_and_the_exit_code_says_so(cdtl: Cdtl, cohort: Path) -> None:
    first = sorted((cohort / "images").iterdir())[0]
    first.write_bytes(first.read_bytes()[:200])
    done = cdtl("data", "check", str(cohort / "manifest.csv"), "--modality", "ultrasound", "--html", "page.html")
    assert done.code == 4
    assert f"images/{first.name}" in done.out
    assert "ERROR unreadable" in done.out
    page = Path("page.html").read_text()
    assert first.name in page
    assert "://" not in page


def test_a_rule_is_switched_off_with_a_reason_in_site_toml(cdtl: Cdtl, cohort: Path) -> None:
    first = sorted((cohort / "images").iterdir())[0]
    first.write_bytes(b"")
    site = 'site = "north"\nmodality = "ultrasound"\ndata.manifest = "manifest.csv"\n'
    Path("site.toml").write_text(site + '[checks]\noff = { unreadable = "being exported again" }\n')
    arguments = ("data", "check", str(cohort), "--modality", "ultrasound", "--site", "site.toml")
    done = cdtl(*arguments)
    assert done.code == 0, done.out
    assert "WAIVED unreadable" in done.out
    assert "being exported again" in done.out
    Path("site.toml").write_text(site + '[checks]\noff = { no-such-rule = "because" }\n')
    assert cdtl(*arguments).code == 3


def test_a_manifest_is_made_from_class_folders_and_then_trains(cdtl: Cdtl, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "folders" / ("benign", "malignant")[i % 2] / f"P{i // 2:02d}{'ab'[i % 2]}_x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(path)
    done = cdtl("data", "make-manifest", "folders", "--patient-pattern", r"(P\d+[ab])_")
    assert done.code == 0, done.err
    assert "24 images of 24 patients: 12 benign, 12 malignant" in done.out
    assert done.err == ""
    assert cdtl("data", "make-manifest", "folders").code == 4  # exists
    with open("tiny.toml", "a") as file:
        file.write('[[sites]]\nsite = "extra"\nmodality = "mri"\ndata.manifest = "folders/manifest.csv"\n')
    done = cdtl("simulate", "tiny.toml", "--set", "methods=cdtl")
    assert done.code == 0, done.err
    assert "extra" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("data", "check", "nowhere", "--modality", "ultrasound"), 4, "does not exist"),
        (("data", "check", ".", "--modality", "ultrasound"), 4, "no image"),
        (("data", "check", "tiny.toml", "--modality", "sonar"), 3, "sonar"),
        (("data", "check", "tiny.toml", "--modality", "mri"), 4, "lacks the column"),
        (("data", "make-manifest", "nowhere"), 4, "does not exist"),
        (("data", "make-manifest", ".", "--labels", "none.csv"), 4, "none.csv"),
    ],
)
def test_wrong_input_is_one_sentence(cdtl: Cdtl, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = cdtl(*arguments)
    assert done.code == code
    assert says in done.err
    assert done.err.count("\n") == 1


def test_series_become_exams_of_a_manifest_that_the_check_reads_slice_by_slice(cdtl: Cdtl, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        volume = rng.integers(0, 900, (4, 40, 40)).astype(np.int16)
        told: Any = {"PatientID": f"P{number}", "StudyInstanceUID": f"2.{number}", "SeriesInstanceUID": f"1.{number}"}
        write_series(tmp_path / "images" / ("benign", "malignant")[number % 2] / f"S{number}", volume, **told)
    done = cdtl("data", "make-manifest", "images", "--series")
    assert done.code == 0, done.err
    assert "24 slices are listed as 6 series" in done.err
    assert "6 images of 6 patients in 6 exams: 3 benign, 3 malignant" in done.out
    lines = Path("images/manifest.csv").read_text().splitlines()
    assert lines[:2] == ["file,label,patient_id,split,group,exam_id", "benign/S0,benign,P0,,,2.0"]
    done = cdtl("data", "check", "images", "--modality", "mri")
    assert done.code == 0, done.out
    assert "6 of them hold several images, 24 in all, 5 to 5 mm apart (median 5)" in done.out
    slice_ = Path("images/benign/S2/IM0003")
    slice_.write_bytes(slice_.read_bytes()[:-9])
    done = cdtl("data", "check", "images", "--modality", "mri")
    assert done.code == 4
    assert "exam 2.2: the image" in done.out
    assert "has a slice, IM0003, that is truncated" in done.out
