"""The shipped configuration `exams`: frames, views and volumes in one federation, end to end."""

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import Cdtl
from tests.stub import STUB

SMALL = (
    "image.size=32",
    f"model.backbone={STUB}",
    "model.weights=random",
    "model.levels=[2,3]",
    "train.freeze=3",
    "train.views=1",
    "train.steps=4",
    "federation.rounds=2",
    "sites.north.data.phantom.patients=24",
    "sites.south.data.phantom.patients=40",
    "sites.south.data.phantom.train=8",
    "sites.west.data.phantom.patients=20",
)


@pytest.mark.slow
@pytest.mark.ci
def test_three_forms_of_exams_train_together_and_are_scored_by_exam(cdtl: Cdtl, tmp_path: Path) -> None:
    done = cdtl("simulate", "exams", *(part for one in SMALL for part in ("--set", one)), "--out", "run")
    assert done.code == 0, done.err
    assert "one benign and one malignant exam" in " ".join(done.out.split())
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["unit"] == "exam"
    sites = {site["name"]: site for site in report["sites"]}
    assert {site["modality"] for site in sites.values()} == {"ultrasound", "mammography", "mri"}
    images = {name: sum(site["images"].values()) for name, site in sites.items()}
    assert 48 <= images["north"] <= 144
    assert images["south"] == 160
    assert 240 <= images["west"] <= 400
    for name, site in sites.items():
        (model,) = (tmp_path / "run" / "sites" / name / "models").glob("*-cdtl")
        with open(model / "scores.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == site["patients"]["test"]
    (series,) = (tmp_path / "run" / "sites" / "west" / "cache").glob("phantoms-*slices12to20*")
    assert all(file.suffix == ".dcm" for exam in (series / "images").iterdir() for file in exam.iterdir())
