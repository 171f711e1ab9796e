"""The command line in real processes, including wrong input."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cdtl


def test_the_installed_command_answers(tmp_path: Path) -> None:
    """A process of its own, in an empty folder, without the checkout on its path."""
    command = Path(sys.executable).with_name("cdtl")
    done = subprocess.run([command, "simulate", "none.toml"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr.startswith("Error: the configuration none.toml does not exist")


def test_simulate_then_predict(cdtl: Cdtl, tmp_path: Path) -> None:
    done = cdtl("simulate", "tiny.toml", "--out", "run")
    assert done.code == 0, done.err
    for word in ("alba", "como", "SYNTHETIC", "local", "FedBN", "CDTL", "report.json"):
        assert word in done.out
    assert done.err == ""
    image = next((tmp_path / "run" / "sites" / "alba").glob("cache/phantoms-*/images/*.png"))
    told = cdtl("predict", "run/sites/alba", str(image), str(image), "--out", "p.csv")
    assert told.code == 0, told.err
    header, first, second = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "file,p_benign,p_malignant,probabilities,called,like_training,unlike_because"
    assert first == second
    _, benign, malignant, kind, *_ = first.split(",")
    assert float(benign) + float(malignant) == pytest.approx(1, abs=2e-6)
    assert kind == "raw"  # too few validation patients to calibrate
    again = cdtl("simulate", "tiny.toml", "--out", "run")
    assert (again.code, "--resume" in again.err) == (6, True)


def test_prediction_equals_what_the_run_wrote_of_the_same_image(cdtl: Cdtl, tmp_path: Path) -> None:
    assert cdtl("simulate", "tiny.toml", "--out", "run", "--set", "methods=alone").code == 0
    home = tmp_path / "run" / "sites" / "como"
    with open(home / "models" / "tiny-alone" / "scores.csv") as file:
        rows = list(csv.DictReader(file))[:5]
    images = [str(next(home.glob(f"cache/phantoms-*/images/{row['image']}"))) for row in rows]
    told = cdtl("predict", str(home), *images, "--csv")
    predicted = [float(row["p_malignant"]) for row in csv.DictReader(told.out.splitlines())]
    assert predicted == pytest.approx([float(row["p_own"]) for row in rows], abs=1e-4)


def test_json_is_the_report(cdtl: Cdtl, tmp_path: Path) -> None:
    done = cdtl("simulate", "tiny.toml", "--json", "--set", "methods=alone")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads((tmp_path / "runs" / "tiny" / "report.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("simulate",), 2, "CONFIG"),
        (("simulate", "tiny.toml", "--resume", "x"), 6, "holds no run"),
        (("simulate", "none.toml"), 3, "does not exist"),
        (("simulate", "tiny.toml", "--set", "train.lrr=1"), 3, "train.lrr"),
        (("simulate", "tiny.toml", "--set", "model.backbone=resnet0"), 5, "resnet0"),
        (("simulate", "tiny.toml", "--set", "model.weights=w.safetensors"), 5, "w.safetensors"),
        (("simulate", "tiny.toml", "--set", "train.freeze=99"), 5, "train.freeze"),
        (("simulate", "tiny.toml", "--set", "blend.policy=fixed", "--set", "blend.alpha=0.1"), 3, "swaps"),
        (("simulate", "breast"), 4, "manifest"),
        (("simulate", "tiny.toml", "--set", "blend.settle=8"), 3, "leave at least one round"),
        (("simulate", "studies/demo.toml"), 3, "does not exist"),
        (("simulate", "tiny.toml", "--out", "tiny.toml"), 6, "is a file"),
        (("simulate", "--resume", "nowhere"), 6, "holds no run"),
        (("predict", "nowhere", "x.png"), 5, "not a model folder"),
    ],
)
def test_wrong_input_is_one_sentence_and_the_familys_code(
    cdtl: Cdtl, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = cdtl(*arguments)
    assert done.code == code, done.err
    assert says in done.err
    assert "Traceback" not in done.err
    if code != 2:
        assert done.err.count("\n") == 1
        assert done.err.startswith("Error: ")
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"tiny.toml", "runs"}
    assert not any((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("fault", ["label", "class", "image"])
def test_a_wrong_cohort_is_one_sentence(cdtl: Cdtl, tmp_path: Path, fault: str) -> None:
    rng, rows = np.random.default_rng(0), ["file,label,patient_id"]
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{('benign', 'malignant')[i % 2 if fault != 'class' else 0]},p{i}")
    if fault == "label":
        rows[3] = "2.png,bening,p2"
    if fault == "image":
        (tmp_path / "4.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    with open("tiny.toml", "a") as file:
        file.write('[[sites]]\nsite = "extra"\nmodality = "mri"\ndata.manifest = "m.csv"\n')
    done = cdtl("simulate", "tiny.toml")
    expected = {"label": "the label 'bening'", "class": "'malignant' has no patient", "image": "4.png"}[fault]
    assert done.code == 4
    assert expected in done.err
    assert done.err.count("\n") == 1
