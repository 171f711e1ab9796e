"""Wrong labels, folders and names: the sentence comes first and says what to type instead."""

from pathlib import Path

import pytest

from cdtl_core.config.folders import SITE_FILE
from cdtl_core.data.synthetic.writing import write_phantoms
from tests.conftest import Cdtl

pytestmark = pytest.mark.integration


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_phantoms(tmp_path / "images", modality="ultrasound", num_patients=12, seed=1, size=32)
    return tmp_path / "images" / "manifest.csv"


def test_labels_are_checked_before_the_images(cdtl: Cdtl, images: Path) -> None:
    table = images.read_text().replace("malignant", "Maligno")
    images.write_text(table)
    init = ("site", "init", "site", "--name", "cork", "--modality", "ultrasound", "--data", images)
    done = cdtl(*init)
    assert (done.code, "--map 'Maligno=malignant'" in done.err) == (3, True)
    assert "images (" not in done.out  # no image was opened
    done = cdtl(*init, "--map", "Maligno=malign")
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines()[-1] == (
        "Error: --map 'Maligno=malign': the federation has no label 'malign': did you mean malignant? Use one of "
        "benign, malignant, and give the command again."
    )
    assert "label_map" not in done.err
    checked = cdtl("data", "check", images, "--modality", "ultrasound", "--labels", "benign,malignant")
    assert "--map of cdtl site init" in " ".join(checked.out.split())
    assert "readable" in cdtl(*init, "--map", "Maligno=malignant").out  # then the images


def test_a_sites_folder_is_no_model_and_its_models_are_named(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "bergen").mkdir()
    assert "give sites/<name> of a run." in cdtl("predict", "bergen", "new.png").err
    (tmp_path / "bergen" / SITE_FILE).write_text('site = "bergen"\nmodality = "mri"\n')
    assert "it has one once a run has ended" in cdtl("predict", "bergen", "new.png").err
    (tmp_path / "bergen" / "models" / "lesions-cdtl").mkdir(parents=True)
    (tmp_path / "bergen" / "models" / "lesions-cdtl" / "model.json").touch()
    done = cdtl("predict", "bergen", "new.png")
    assert done.err.endswith("give one of its models: bergen/models/lesions-cdtl.\n")


@pytest.mark.parametrize(
    "command",
    [
        ("simulate", "tiny", "--set", "sites.north.modality=colposcopy"),
        ("simulate", "tiny", "--set", "train.loss=mine"),
        ("simulate", "tiny", "--set", "model.backbone=mine"),
        ("compare", "tiny", "--methods", "alone,mine"),
    ],
)
def test_an_unknown_name_may_be_one_of_a_script(cdtl: Cdtl, command: tuple[str, ...]) -> None:
    done = cdtl(*command)
    assert (done.code in {3, 5}, "If a script registers it, run the command through that script" in done.err) == (
        True,
        True,
    )


def test_files_that_are_no_images_are_named(cdtl: Cdtl, images: Path) -> None:
    (images.parent / "README.txt").write_text("of the archive")
    (images.parent / "images" / "Thumbs.db").write_bytes(b"-")
    done = cdtl("data", "make-manifest", images.parent, "--labels", images, "--out", "new.csv")
    assert done.code == 0, done.err
    assert "no images by their endings, left out: README.txt, images/Thumbs.db." in done.err
    assert "manifest.csv" not in done.err
