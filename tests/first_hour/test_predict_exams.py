"""`cdtl predict` with a model of exams: folders, volumes, patterns and manifests in, one line for each exam out."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import BoxConfig, SimulationConfig
from cdtl_core.data.box import Square
from cdtl_core.data.synthetic.writing import write_phantoms
from cdtl_core.errors import DataError
from cdtl_core.inference.asked import asked_for, tags_of, with_boxes
from cdtl_core.results.scores import read_scores
from tests.conftest import Cdtl, Played
from tests.data.volumes import ramp, write_series

SITES = [
    {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 60, "seed": 1, "images": [2, 4]}}},
    {
        "site": "west",
        "modality": "mri",
        "data": {"phantom": {"patients": 16, "seed": 3, "images": [5, 6], "series": True}},
    },
]


@pytest.fixture
def sites(played: Played, tiny: Callable[..., SimulationConfig]) -> Path:
    """A site of frames and one of volumes."""
    model = {"pooling": "attention", "levels": [2, 3]}
    train = {"freeze": 3, "views": 1, "steps": 12, "exam_images": 3}
    config = tiny(methods=("fedbn",), sites=SITES, task={"unit": "exam"}, model=model, train=train)
    return played(config).out / "sites"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """The manifest of five new exams of frames; each is a subfolder of ``images``."""
    return write_phantoms(tmp_path / "new", modality="ultrasound", num_patients=5, seed=99, size=32, images=(2, 4))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def told(cdtl: Cdtl, model: Path, *given: object) -> dict[str, dict[str, str]]:
    """Return the lines of a prediction by the exam's name, without the folder that it lies in."""
    done = cdtl("predict", model, *given, "--csv")
    assert done.code == 0, done.err
    return {Path(row["exam"]).name: row for row in rows(done.out)}


def test_subfolders_and_the_rows_of_a_manifest_are_the_same_exams(cdtl: Cdtl, sites: Path, new: Path) -> None:
    by_folder, by_manifest = told(cdtl, sites / "alba", new.parent / "images"), told(cdtl, sites / "alba", new)
    counts = {folder.name: len(list(folder.iterdir())) for folder in (new.parent / "images").iterdir()}
    assert {name: int(row["images"]) for name, row in by_folder.items()} == counts
    assert by_folder.keys() == by_manifest.keys()
    assert all(row["p_malignant"] == by_manifest[name]["p_malignant"] for name, row in by_folder.items())
    one = next(iter(counts))
    alone = told(cdtl, sites / "alba", new.parent / "images" / one)
    assert (alone.keys(), alone[one]["p_malignant"]) == ({one}, by_folder[one]["p_malignant"])
    assert told(cdtl, sites / "alba", f"{new.parent}/images/*").keys() == counts.keys()


@pytest.mark.parametrize("site", ["alba", "west"])
def test_the_sites_own_test_exams_get_the_scores_of_the_run(cdtl: Cdtl, sites: Path, site: str) -> None:
    (model,) = (sites / site / "models").iterdir()
    scores = read_scores(model)
    assert scores is not None
    (manifest,) = (sites / site / "cache").glob("phantoms-*/manifest.csv")
    found = told(cdtl, model, manifest)
    expected = dict(zip(scores.images, scores.probability, strict=True))
    assert scores.unit == "exam"
    assert len(expected) > 3
    for name, probability in expected.items():
        assert float(found[name]["p_malignant"]) == pytest.approx(probability, abs=2e-3)


def test_a_series_is_one_exam_whatever_its_files_are_called(cdtl: Cdtl, sites: Path, tmp_path: Path) -> None:
    images = (
        write_phantoms(
            tmp_path / "v", modality="mri", num_patients=4, seed=8, size=32, images=(5, 5), series=True
        ).parent
        / "images"
    )
    before = told(cdtl, sites / "west", images)
    assert {row["images"] for row in before.values()} == {"5"}
    one = next(iter(sorted(images.iterdir())))
    for number, file in enumerate(sorted(one.iterdir(), reverse=True)):
        file.rename(one / f"IM{number}")
    after = told(cdtl, sites / "west", one)
    assert after[one.name]["p_malignant"] == before[one.name]["p_malignant"]


def test_slices_that_are_missing_and_files_that_are_not_read_are_said(cdtl: Cdtl, sites: Path, tmp_path: Path) -> None:
    series = write_series(tmp_path / "S1", ramp(6, 32, 32), Modality="MR")
    (series / "IM0003").unlink()
    (series / "notes.txt").write_text("no image")
    because = told(cdtl, sites / "west", tmp_path)["S1"]["unlike_because"]
    assert "slices missing between its 5: 1" in because
    assert "files in its folder that are not read: 1 (notes.txt)" in because


def test_the_table_and_its_sentences_speak_of_exams(cdtl: Cdtl, sites: Path, new: Path) -> None:
    said = " ".join(cdtl("predict", sites / "alba", new).out.split())
    assert said.startswith("exam images p_benign p_malignant")
    assert "of 100 exams that were malignant it called" in said
    first = json.loads(cdtl("predict", sites / "alba", new, "--json").out)["predictions"][0]
    assert first["exam"] in {row["exam_id"] for row in rows(new.read_text())}
    assert first["images"] in {2, 3, 4}


def test_an_exam_with_a_damaged_image_gets_no_score_and_is_named(cdtl: Cdtl, sites: Path, new: Path) -> None:
    exams = sorted((new.parent / "images").iterdir())
    first = sorted(exams[0].iterdir())[0]
    first.write_bytes(first.read_bytes()[:60])
    done = cdtl("predict", sites / "alba", new.parent / "images", "--csv")
    assert done.code == 4
    assert {row["exam"] for row in rows(done.out)} == {str(exam) for exam in exams[1:]}
    assert f"1 exam cannot be read, all others were predicted: the exam {exams[0]} gets no score" in done.err
    assert str(first) in done.err


def test_an_exam_of_another_kind_gets_a_warning_that_counts_its_images(cdtl: Cdtl, sites: Path, new: Path) -> None:
    exam = sorted((new.parent / "images").iterdir())[0]
    for file in exam.iterdir():
        Image.fromarray(np.full((32, 32, 3), (255, 0, 128), np.uint8)).save(file)
    found = told(cdtl, sites / "alba", new.parent / "images")
    count = len(list(exam.iterdir()))
    assert found[exam.name]["like_training"] == "no"
    assert f"{count} of {count} images: it has colour" in found[exam.name]["unlike_because"]


def test_a_model_of_patients_needs_patients_and_paths_stay_below_the_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("file,exam_id\na.png,e\nb.png,e\nc.png,\n")
    exams = asked_for([manifest], "exam")
    assert [(one.name, len(one.files)) for one in exams] == [("e", 2), (str(tmp_path / "c.png"), 1)]
    assert [one.name for one in asked_for([manifest], "image")] == [
        str(tmp_path / name) for name in ("a.png", "b.png", "c.png")
    ]
    with pytest.raises(DataError, match=r"lacks the column patient_id: add it to the header\.$"):
        asked_for([manifest], "patient")
    manifest.write_text("file\n../a.png\n")
    with pytest.raises(DataError, match="leads out of its folder"):
        asked_for([manifest], "exam")


def test_a_manifest_that_mixes_patients_or_counts_an_image_twice_is_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("file,exam_id,patient_id\na.png,e,p1\nb.png,e,p2\n")
    with pytest.raises(DataError, match=r"has two patients under the exam e: give each exam its own exam_id\.$"):
        asked_for([manifest], "exam")
    manifest.write_text("file,exam_id,patient_id\na.png,e,p1\n./a.png,e,\n")
    with pytest.raises(DataError, match=r"lists an image of the exam e twice: give each image one row\.$"):
        asked_for([manifest], "exam")
    manifest.write_text("file,patient_id\na.png,p1\nb.png,\n")
    with pytest.raises(DataError, match=r"has no patient_id for b\.png: fill it in\.$"):
        asked_for([manifest], "patient")


def test_each_row_of_a_manifest_of_images_is_scored_also_two_lesions_of_one_file(tmp_path: Path) -> None:
    manifest, box = tmp_path / "m.csv", BoxConfig(column="bbox", margin=1.0, least_px=1)
    manifest.write_text('file,bbox\na.png,"1,2,10,10"\na.png,"3,4,20,20"\n')
    found = with_boxes(asked_for([manifest], "image"), box, (), unit="image")
    assert [one.squares for one in found] == [(Square(1, 2, 10),), (Square(3, 4, 20),)]


@pytest.mark.parametrize("name", ["A.png", "z.png"])
def test_an_image_beside_the_slices_of_a_series_is_an_image_of_the_exam(tmp_path: Path, name: str) -> None:
    series = write_series(tmp_path / "exam", ramp(3))
    Image.new("L", (8, 8)).save(series / name)
    (one,) = asked_for([series], "exam")
    assert one.files == (series, series / name)
    tags = tags_of(series)
    assert tags is not None
    assert tags.is_slice


def test_boxes_of_exams_come_from_the_manifest(tmp_path: Path) -> None:
    manifest, box = tmp_path / "m.csv", BoxConfig(column="bbox", margin=1.0, least_px=1)
    manifest.write_text('file,exam_id,bbox\na.png,e,"1,2,10,10"\nb.png,e,"3,4,20,20"\n')
    (one,) = with_boxes(asked_for([manifest], "exam"), box, (), unit="exam")
    assert one.squares == (Square(1, 2, 10), Square(3, 4, 20))
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"give a manifest with the columns file, exam_id and bbox\.$"):
        with_boxes(asked_for([tmp_path / "a.png"], "exam"), box, ("1,2,3,4",), unit="exam")


def test_files_beside_exam_folders_are_exams_of_their_own(tmp_path: Path, new: Path) -> None:
    images = new.parent / "images"
    exams = sorted(images.iterdir())
    loose = images / "loose.png"
    shutil.copy(next(exams[0].iterdir()), loose)
    assert [one.name for one in asked_for([images], "exam")] == sorted(map(str, [*exams, loose]))


def test_volumes_side_by_side_are_an_exam_each(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for name in ("a.nii.gz", "b.nii"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 5), np.float32), np.eye(4)), tmp_path / name)
    assert [one.name for one in asked_for([tmp_path], "exam")] == [str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii")]
