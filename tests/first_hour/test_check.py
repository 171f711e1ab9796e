"""`cdtl data check` as a hospital types it: findings in groups, and what cannot be judged."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.data.synthetic.writing import write_phantoms
from tests.conftest import Cdtl
from tests.data.written import png
from tests.first_hour.test_manifest import MAKE


def test_one_mistake_is_one_finding_with_a_few_examples(cdtl: Cdtl, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "c", modality="ultrasound", num_patients=60, seed=5, size=64)
    lines = Path("c/manifest.csv").read_text().splitlines()
    for path in sorted(Path("c/images").iterdir())[::2]:
        path.unlink()
    Path("c/manifest.csv").write_text("\n".join(lines) + "\n")
    done = cdtl("data", "check", "c", "--modality", "ultrasound")
    assert done.code == 4
    assert done.out.count("ERROR unreadable") == 1
    assert "images does not exist" in done.out
    assert done.out.count(".png") < 15


def test_a_label_that_is_missing_is_counted_once(cdtl: Cdtl, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "c", modality="ultrasound", num_patients=60, seed=5, size=64)
    first, *lines = Path("c/manifest.csv").read_text().splitlines()
    place = first.split(",").index("label")
    rows = [line.split(",") for line in lines]
    for row in rows[:53]:
        row[place] = ""
    Path("c/manifest.csv").write_text("\n".join([first, *(",".join(row) for row in rows)]) + "\n")
    done = cdtl("data", "check", "c", "--modality", "ultrasound")
    assert done.code == 4
    assert "53 images have no label." in done.out
    assert done.out.count("ERROR") == 1


def test_many_findings_of_one_rule_are_capped(cdtl: Cdtl) -> None:
    for number in range(12):
        png(Path("images") / f"class{chr(97 + number)}" / "P1_1.png", seed=number)
    assert cdtl(*MAKE, "--patient-pattern", "{label}/{patient}_*").code == 0
    done = cdtl("data", "check", "images", "--modality", "ultrasound")
    assert done.out.count("a split needs 3") == 3
    assert "9 more findings of this rule" in done.out
    assert done.out.count("Add patients, or map the class") == 1


def test_the_check_says_what_it_cannot_judge(cdtl: Cdtl, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "c", modality="ultrasound", num_patients=30, seed=5, size=64)
    done = cdtl("data", "check", "c", "--modality", "mammography")
    assert done.code == 0
    assert "Not judged" in done.out
    assert "whether the images are mammography" in done.out
    told = json.loads(cdtl("data", "check", "c", "--modality", "mammography", "--json").out)["not_judged"]
    assert any("DICOM" in one for one in told)
    assert any("text" in one for one in told)  # images of 64 pixels are too small to read


def test_the_check_finds_patients_by_the_same_pattern(cdtl: Cdtl) -> None:
    for number in range(6):
        for view in (1, 2):
            png(Path("images") / ("ab"[number % 2]) / f"P{number}_{view}.png", seed=10 * number + view)
    check = ("data", "check", "images", "--modality", "ultrasound", "--json")
    assert "patient-missing" in cdtl(*check).out
    told = json.loads(cdtl(*check, "--patient-pattern", "{patient}_*").out)
    assert told["counts"]["patients"] == 6
    assert "patient-missing" not in {one["rule"] for one in told["findings"]}
    assert cdtl(*MAKE).code == 0
    done = cdtl(*check, "--patient-pattern", "{patient}_*")
    assert done.code == 4
    assert "cdtl data make-manifest images --patient-pattern '{patient}_*' --force" in done.err


@pytest.mark.parametrize("source", ["nofolder", "nofolder/manifest.csv"])
def test_checking_what_does_not_exist_says_only_that(cdtl: Cdtl, source: str) -> None:
    done = cdtl("data", "check", source, "--modality", "ultrasound")
    assert done.code == 4
    assert (
        done.err == f"Error: {source} does not exist: give a manifest.csv, a folder that holds one, or class folders.\n"
    )


def test_gray_images_of_a_modality_in_colour_ask_for_the_modality(cdtl: Cdtl) -> None:
    for number in range(6):
        png(Path("images") / ("ab"[number % 2]) / f"P{number}.png", seed=number)
    check = ("data", "check", "images", "--modality", "histology", "--patient-pattern", "(P.)", "--json")

    def colour() -> dict[str, str]:
        return next(one for one in json.loads(cdtl(*check).out)["findings"] if one["rule"] == "colour")

    assert colour()["message"] == "6 of 6 images are gray, histology is in colour."
    assert "whether histology is the right modality" in colour()["advice"]
    noise = np.random.default_rng(9).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save("images/a/P6.png")
    assert colour()["message"].startswith("6 of 7 images are gray")
    assert "modality" not in colour()["advice"]
