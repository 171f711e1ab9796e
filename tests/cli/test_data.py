"""`cdtl data` as a hospital's engineer meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.imaging.phantom import write_phantoms
from tests.cli.test_main import Done, cdtl  # noqa: F401  (the fixture)

Cdtl = Callable[..., Done]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return write_phantoms(tmp_path / "cohort", modality="ultrasound", num_patients=30, seed=5, size=64).parent


def test_a_clean_cohort_passes_and_is_counted(cdtl: Cdtl, cohort: Path) -> None:  # noqa: F811
    done = cdtl("data", "check", str(cohort), "--modality", "ultrasound", "--json")
    assert done.returncode == 0, done.stdout
    result = json.loads(done.stdout)
    assert result["counts"]["patients"] == 30
    assert not result["has_errors"]
    assert [finding for finding in result["findings"] if finding["severity"] == "error"] == []


def test_faults_are_named_with_what_to_do_and_the_exit_code_says_so(cdtl: Cdtl, cohort: Path) -> None:  # noqa: F811
    first = sorted((cohort / "images").iterdir())[0]
    first.write_bytes(first.read_bytes()[:200])
    done = cdtl("data", "check", str(cohort / "manifest.csv"), "--modality", "ultrasound", "--html", "page.html")
    assert done.returncode == 4
    assert f"images/{first.name}" in done.stdout
    assert "ERROR unreadable" in done.stdout
    page = Path("page.html").read_text()
    assert first.name in page
    assert "://" not in page


def test_a_rule_is_switched_off_with_a_reason_in_site_toml(cdtl: Cdtl, cohort: Path) -> None:  # noqa: F811
    first = sorted((cohort / "images").iterdir())[0]
    first.write_bytes(b"")
    site = 'site = "north"\nmodality = "ultrasound"\ndata.manifest = "manifest.csv"\n'
    Path("site.toml").write_text(site + '[checks]\noff = { unreadable = "being exported again" }\n')
    arguments = ("data", "check", str(cohort), "--modality", "ultrasound", "--site", "site.toml")
    done = cdtl(*arguments)
    assert done.returncode == 0, done.stdout
    assert "WAIVED unreadable" in done.stdout
    assert "being exported again" in done.stdout
    Path("site.toml").write_text(site + '[checks]\noff = { no-such-rule = "because" }\n')
    assert cdtl(*arguments).returncode == 3


def test_a_manifest_is_made_from_class_folders_and_then_trains(cdtl: Cdtl, tmp_path: Path) -> None:  # noqa: F811
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "folders" / ("benign", "malignant")[i % 2] / f"P{i // 2:02d}{'ab'[i % 2]}_x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(path)
    done = cdtl("data", "make-manifest", "folders", "--patient-pattern", r"(P\d+[ab])_")
    assert done.returncode == 0, done.stderr
    assert "24 images, 12 benign, 12 malignant" in done.stdout
    assert done.stderr == ""
    assert cdtl("data", "make-manifest", "folders").returncode == 4  # exists
    with open("tiny.toml", "a") as file:
        file.write('[[sites]]\nsite = "extra"\nmodality = "mri"\ndata.manifest = "folders/manifest.csv"\n')
    done = cdtl("simulate", "tiny.toml", "--set", "methods=cdtl")
    assert done.returncode == 0, done.stderr
    assert "extra" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("data", "check", "nowhere", "--modality", "ultrasound"), 4, "does not exist"),
        (("data", "check", ".", "--modality", "ultrasound"), 4, "no class folders"),
        (("data", "check", "tiny.toml", "--modality", "sonar"), 3, "sonar"),
        (("data", "check", "tiny.toml", "--modality", "mri"), 4, "lacks the column"),
        (("data", "make-manifest", "nowhere"), 4, "no class folders"),
        (("data", "make-manifest", ".", "--labels", "none.csv"), 4, "none.csv"),
    ],
)
def test_wrong_input_is_one_sentence(cdtl: Cdtl, arguments: tuple[str, ...], code: int, says: str) -> None:  # noqa: F811
    done = cdtl(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
