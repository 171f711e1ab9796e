"""`cdtl predict` for people: folders and patterns in, a called label, its meaning and warnings out."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import SimulationConfig
from cdtl_core.data.synthetic.writing import write_phantoms
from tests.conftest import Cdtl, Played
from tests.data.written import dicom

SITES = [
    {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 160, "seed": 1}}},
    {"site": "como", "modality": "histology", "data": {"phantom": {"patients": 12, "seed": 3}}},
]


@pytest.fixture
def sites(played: Played, tiny: Callable[..., SimulationConfig], tmp_path: Path) -> Path:
    """A site of 160 patients, calibrated, and one of 12, not."""
    run = played(tiny(methods=("fedbn",), sites=SITES, image={"size": 64}, model={"backbone": "test_resnet"}))
    return run.copied(tmp_path / "run") / "sites"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten new patients of the first site's modality."""
    return write_phantoms(tmp_path / "new", modality="ultrasound", num_patients=10, seed=99, size=64).parent / "images"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_a_folder_gets_a_called_label_and_what_it_means(cdtl: Cdtl, sites: Path, images: Path) -> None:
    done = cdtl("predict", sites / "alba", images)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    card = json.loads((sites / "alba" / "model_card.json").read_text())
    threshold, patients = card["operating_point"]["threshold"], card["cohort"]["patients"]
    assert f"malignant is called from a probability of {threshold:.3f} on" in said
    assert f"On this site's {patients['test']} test patients, of 100 images that were malignant it called" in said
    assert "(sensitivity)" in said
    assert "(specificity)" in said
    assert f"calibrated on {patients['val']} validation patients" in said
    assert "synthetic" in said
    assert "not a medical device" in said
    assert f"called (from {threshold:.3f})" in said
    assert "Images of any other label are not recognised as such" in said
    told = rows(cdtl("predict", sites / "alba", images, "--csv").out)
    assert len(told) == len(list(images.iterdir()))
    for row in told:
        assert row["called"] == ("malignant" if float(row["p_malignant"]) >= threshold else "benign")


def test_labels_that_the_site_left_out_are_named(cdtl: Cdtl, sites: Path, images: Path) -> None:
    path = sites / "alba" / "model_card.json"
    card = json.loads(path.read_text())
    card["cohort"]["label_map"] = {"sano": "", "Benigno": "benign", "cicatriz": ""}
    path.write_text(json.dumps(card))
    said = "Images of the labels that the site left out (cicatriz, sano) are not recognised as such"
    assert said in " ".join(cdtl("predict", sites / "alba", images).out.split())
    assert any(said in one for one in json.loads(cdtl("predict", sites / "alba", images, "--json").out)["meaning"])
    path.unlink()
    text = " ".join(cdtl("predict", sites / "alba", images).out.split())
    assert "Images of any other label are not recognised" in text
    assert "called (from" not in text


def test_patterns_folders_and_files_are_one_list(cdtl: Cdtl, sites: Path, images: Path) -> None:
    one = sorted(images.iterdir())[0]
    (images / "notes.txt").write_text("x")
    count = len(list(images.glob("*.png")))
    told = rows(cdtl("predict", sites / "alba", f"{images}/*.png", images, one, "--csv").out)
    assert len(told) == 2 * count + 1
    assert told[0]["p_malignant"] == told[count]["p_malignant"] == told[-1]["p_malignant"]
    none = cdtl("predict", sites / "alba", "new/*.tif")
    assert (none.code, "no file matches new/*.tif" in none.err) == (4, True)


@pytest.mark.parametrize("missing", ["nofolder/", "lesion.png"])
def test_a_missing_folder_or_image_is_named_before_any_is_read(
    cdtl: Cdtl, sites: Path, images: Path, missing: str
) -> None:
    done = cdtl("predict", sites / "alba", images, missing)
    assert (done.code, done.out) == (4, "")
    assert f"{missing.rstrip('/')} does not exist: give an image, a folder of images or a pattern" in done.err
    assert "manifest" not in done.err


def test_uncalibrated_probabilities_are_named_so(cdtl: Cdtl, sites: Path, images: Path) -> None:
    said = " ".join(cdtl("predict", sites / "como", images).out.split())
    assert "NOT calibrated" in said
    assert "20 are needed" in said


def test_new_images_of_the_kind_are_like_the_training_images(cdtl: Cdtl, sites: Path, images: Path) -> None:
    told = rows(cdtl("predict", sites / "alba", images, "--csv").out)
    assert sum(row["like_training"] == "no" for row in told) <= 1


def test_an_image_of_another_kind_gets_a_warning_that_says_why(cdtl: Cdtl, sites: Path, tmp_path: Path) -> None:
    other = write_phantoms(tmp_path / "o", modality="mammography", num_patients=6, seed=7, size=64).parent / "images"
    tissue = write_phantoms(tmp_path / "h", modality="histology", num_patients=4, seed=7, size=64).parent / "images"
    shutil.copy(next(tissue.iterdir()), other / "tissue.png")
    dicom(other / "IM0", "P", modality="MR")
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(other / "white.png")
    told = {Path(row["file"]).name: row for row in rows(cdtl("predict", sites / "alba", other, "--csv").out)}
    unlike = [name for name, row in told.items() if row["like_training"] == "no"]
    assert {"tissue.png", "IM0", "white.png"} <= set(unlike)
    assert len(unlike) >= len(told) - 1  # the network has random weights
    assert "it has colour, and all training images are gray" in told["tissue.png"]["unlike_because"]
    assert "its DICOM header says MR, and the model was trained on ultrasound" in told["IM0"]["unlike_because"]
    assert "in the training images mostly" in told["white.png"]["unlike_because"]
    said = " ".join(cdtl("predict", sites / "alba", other).out.split())
    assert f"{len(unlike)} of {len(told)} images are unlike those that the model was trained on" in said
    assert "UNLIKE" in said


def test_a_gray_image_is_unlike_a_cohort_in_colour(cdtl: Cdtl, sites: Path, images: Path) -> None:
    told = rows(cdtl("predict", sites / "como", images, "--csv").out)
    assert {row["like_training"] for row in told} == {"no"}
    assert "it is gray" in told[0]["unlike_because"]


def test_a_model_without_statistics_says_that_it_cannot_judge(cdtl: Cdtl, sites: Path, images: Path) -> None:
    (sites / "alba" / "training_statistics.json").unlink()
    done = cdtl("predict", sites / "alba", images)
    assert done.code == 0
    assert "cannot be judged" in " ".join(done.out.split())
    assert {row["like_training"] for row in rows(cdtl("predict", sites / "alba", images, "--csv").out)} == {"unknown"}


def test_few_validation_images_judge_colour_only_and_say_so(cdtl: Cdtl, sites: Path, tmp_path: Path) -> None:
    own = write_phantoms(tmp_path / "h", modality="histology", num_patients=4, seed=7, size=64).parent / "images"
    told = json.loads(cdtl("predict", sites / "como", own, "--json").out)
    assert {one["like_training"] for one in told["predictions"]} == {None}
    assert any("by its colour and DICOM header only" in one for one in told["meaning"])


def test_statistics_or_a_card_of_another_model_are_refused(cdtl: Cdtl, sites: Path, images: Path) -> None:
    for name in ("training_statistics.json", "model_card.json"):
        shutil.copy(sites / "alba" / name, sites / "alba" / "kept")
        shutil.copy(sites / "como" / name, sites / "alba" / name)
        done = cdtl("predict", sites / "alba", images)
        assert (done.code, "another model" in done.err) == (5, True)
        shutil.copy(sites / "alba" / "kept", sites / "alba" / name)


def test_one_damaged_image_does_not_stop_a_folder(cdtl: Cdtl, sites: Path, images: Path) -> None:
    first = sorted(images.iterdir())[0]
    first.write_bytes(first.read_bytes()[:100])
    done = cdtl("predict", sites / "alba", images, "--csv")
    assert done.code == 4
    assert len(rows(done.out)) == len(list(images.iterdir())) - 1
    assert f"1 image cannot be read, all others were predicted: the image {first}" in done.err
    assert cdtl("predict", sites / "alba", first).code == 4
