"""A site's own words for the labels: `cdtl site init --map YOURS=THEIRS --ignore YOURS`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config.settings import load_site
from cdtl_core.deploy.enrolling import check_labels, label_map_of
from cdtl_core.errors import ConfigError
from tests.conftest import Cdtl

WORDS = ("benign", "malignant")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("Benigno", "Maligno", "normal"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for patient in range(12):
            image = Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8))
            image.save(tmp_path / "images" / label / f"{label[0]}{patient:03}_1.png")
    return tmp_path / "images"


def test_the_error_prints_the_options_that_make_the_site(cdtl: Cdtl, tmp_path: Path, images: Path) -> None:
    given = ["--name", "madrid", "--modality", "ultrasound", "--data", str(images), "--patient-pattern", r"^(\w\d+)"]
    refused = cdtl("site", "init", "madrid", *given)
    assert refused.code == 3
    offered = refused.err.rpartition("for example: ")[2].replace("'", "").split()
    assert offered == ["--map", "Benigno=benign", "--map", "Maligno=malignant", "--ignore", "normal"]
    made = cdtl("site", "init", "madrid", *given, *offered)
    assert made.code == 0, made.err
    assert load_site(tmp_path / "madrid" / "site.toml").data.label_map == {
        "Benigno": "benign", "Maligno": "malignant", "normal": "",
    }  # fmt: skip


def test_an_init_that_stopped_at_the_labels_continues_with_the_options_that_were_missing(
    cdtl: Cdtl, tmp_path: Path, images: Path
) -> None:
    given = ["--name", "madrid", "--modality", "ultrasound", "--data", str(images), "--patient-pattern", r"^(\w\d+)"]
    assert cdtl("site", "init", "madrid", *given).code == 3
    made = cdtl("site", "init", "madrid", "--map", "Benigno=benign", "--map", "Maligno=malignant", "--ignore", "normal")
    assert made.code == 0, made.err
    own = load_site(tmp_path / "madrid" / "site.toml")
    assert (own.site, own.modality, str(own.data.manifest)) == ("madrid", "ultrasound", "manifest.csv")


def test_a_pattern_alone_gets_the_whole_command_to_give(cdtl: Cdtl, images: Path) -> None:
    bare = cdtl("site", "init", "madrid", "--patient-pattern", "{patient}_*")
    whole = "cdtl site init madrid --name NAME --modality MODALITY --data IMAGES --patient-pattern '{patient}_*'"
    assert (bare.code, whole in " ".join(bare.err.replace("│", " ").split())) == (2, True), bare.err
    given = ["--name", "madrid", "--modality", "ultrasound", "--data", str(images), "--patient-pattern", r"^(\w\d+)"]
    assert cdtl("site", "init", "madrid", *given).code == 3
    begun = cdtl("site", "init", "madrid", "--patient-pattern", "{patient}_*")
    told = " ".join(begun.err.replace("│", " ").split())
    assert "needs --data. Give the whole command" in told
    assert "--name madrid --modality ultrasound --data IMAGES" in told


def test_the_folder_of_the_images_is_no_folder_for_a_site(cdtl: Cdtl, images: Path) -> None:
    given = ["--name", "madrid", "--modality", "ultrasound", "--data", "images"]
    done = cdtl("site", "init", "images", *given)
    assert done.code == 3
    assert "images is the folder of the images, and a site needs a folder of its own" in done.err
    assert "for example images-site" in done.err
    assert sorted(path.name for path in images.iterdir()) == ["Benigno", "Maligno", "normal"]


@pytest.mark.parametrize(
    ("pairs", "ignored", "says"),
    [
        (["Benigno"], [], "not YOURS=THEIRS"),
        (["Benigno="], [], "not YOURS=THEIRS"),
        (["=benign"], [], "not YOURS=THEIRS"),
        (["a=benign", "a=malignant"], [], "mapped twice"),
        (["a=benign"], ["a"], "mapped twice"),
    ],
)
def test_options_that_say_nothing_or_two_things_are_refused(pairs: list[str], ignored: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        label_map_of(pairs, ignored)


def test_labels_that_are_known_or_mapped_pass() -> None:
    check_labels(["benign", "M"], {"M": "malignant"}, WORDS)
    with pytest.raises(ConfigError, match="--map 'BENIGN=benign' --ignore '3'"):
        check_labels(["BENIGN", "3"], {}, WORDS)
