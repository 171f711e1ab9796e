"""Comparisons: whole ones of synthetic images, kills in the middle, wrong input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cdtl_core.cli.cells import time_left
from cdtl_core.learning.metrics import auroc
from tests.conftest import Cdtl

TINY = """
name = "tiny"
[image]
size = 32
[model]
backbone = "test_efficientnet"
weights = "random"
[train]
steps = 1
batch_size = 4
[federation]
rounds = 2
[blend]
settle = 1
[[sites]]
site = "alba"
modality = "ultrasound"
data.phantom = { patients = 24, seed = 1 }
[[sites]]
site = "como"
modality = "histology"
data.phantom = { patients = 16, seed = 2 }
"""
STUDY = ("--methods", "alone,cdtl", "--seeds", "2", "--folds", "2", "--patients", "4,all", "--target", "alba")


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)


def kill_midway(folder: Path, cells: int) -> None:
    """Start the study as a command with two processes, kill it when some cells are done, see nobody left."""
    command = [sys.executable, "-m", "cdtl_core.cli.main", "compare", "tiny.toml", *STUDY, "--out", "b", "--jobs", "2"]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 200
        while len(list((folder / "b" / "cells").glob("*.json"))) < cells:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.005)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
    assert len(children) >= 2
    assert alive == []


def test_a_comparison_from_command_to_result_goes_on_from_its_cells(cdtl: Cdtl, tmp_path: Path) -> None:
    code, table, lines = cdtl("compare", "tiny.toml", *STUDY, "--out", "a", "--jobs", "1")
    assert code == 0, lines
    assert "16 of 16 cells; cdtl, seed 1, fold 1, all patients" in lines
    for word in ("alba", "cdtl", "all (8)", "SYNTHETIC", "no evidence of gain", "add cdtl_from_theta0", "curves.png"):
        assert word in table
    whole = (tmp_path / "a" / "compare.json").read_bytes()
    found = json.loads(whole)
    assert (found["schema_version"], found["seeds"], found["methods"]) == (1, [0, 1], ["alone", "cdtl"])
    assert [(point["patients"], point["training_patients"]) for point in found["points"]] == [(4, 4.0), ("all", 8.0)]
    for point in found["points"]:
        assert (point["target"], point["tested_patients"]) == ("alba", 24)
        assert set(point["results"]) == {"alone", "cdtl"}
        assert set(point["results"]["cdtl"]["minus"]) == {"alone"}
        assert len(point["results"]["cdtl"]["auroc_by_seed"]) == 2
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
    curves = (tmp_path / "a" / "curves.svg").read_bytes()

    for file in (tmp_path / "a" / "cells").glob("seed1-*"):
        file.unlink()
    (tmp_path / "a" / "compare.json").unlink()
    code, out, lines = cdtl("compare", "--resume", "a", "--jobs", "1", "--json")
    assert code == 0, lines
    assert lines.startswith("8 of 16 cells\n9 of 16 cells; alone, seed 1, fold 0, 4 patients")
    assert json.loads(out) == found
    assert (tmp_path / "a" / "compare.json").read_bytes() == whole
    assert (tmp_path / "a" / "curves.svg").read_bytes() == curves

    (tmp_path / "a" / "cells" / "seed1-fold1-4-cdtl.json").unlink()
    cohorts = tmp_path / "a" / "cohorts.json"
    cohorts.write_text(cohorts.read_text().replace('"como": "', '"como": "x'))
    code, _, error = cdtl("compare", "--resume", "a", "--jobs", "1")
    assert (code, "the patients of site como have changed" in error) == (6, True)


def test_runs_train_the_same_patients_anew_and_one_site_is_their_mean(cdtl: Cdtl, tmp_path: Path) -> None:
    study = (
        "--methods",
        "alone",
        "--seeds",
        "1",
        "--folds",
        "2",
        "--patients",
        "4",
        "--target",
        "alba",
        "--sites",
        "alba",
    )
    code, _, error = cdtl("compare", "tiny.toml", *study, "--runs", "2", "--out", "a", "--jobs", "1")
    assert code == 0, error
    assert "como" not in (tmp_path / "a" / "settings.toml").read_text()

    def cell(fold: int, run: str) -> dict[str, Any]:
        text = (tmp_path / "a" / "cells" / f"seed0-fold{fold}-4-alone{run}.json").read_text()
        found: dict[str, Any] = json.loads(text)["targets"]["alba"]
        return found

    pairs = [(cell(fold, ""), cell(fold, "-run1")) for fold in range(2)]
    for first, second in pairs:
        assert (first["images"], first["labels"]) == (second["images"], second["labels"])
        assert first["probabilities"] != second["probabilities"]
    truth = np.concatenate([np.array(first["labels"]) == first["positive"] for first, _ in pairs])
    score = np.concatenate([np.mean([one["probabilities"] for one in pair], axis=0)[:, 1] for pair in pairs])
    found = json.loads((tmp_path / "a" / "compare.json").read_text())
    assert (found["runs"], pairs[0][0]["positive"]) == (2, 1)
    assert found["points"][0]["results"]["alone"]["auroc_by_seed"] == [pytest.approx(auroc(truth, score))]


def test_cells_share_what_frozen_stages_say_of_an_image(cdtl: Cdtl, tmp_path: Path) -> None:
    """Over folds and methods each image is computed once for a theta0, which here is another for each seed."""
    views = ("--set", "train.freeze=2", "--set", "train.views=2")
    study = ("--methods", "alone,pooled", "--seeds", "2", "--folds", "2", "--jobs", "1", "--out", "shared")
    code, _, lines = cdtl("compare", "tiny.toml", *views, *study)
    assert code == 0, lines
    kept = [[np.load(path)["image"] for path in key.glob("*.npy")] for key in (tmp_path / "shared" / "cache").iterdir()]
    names = [np.concatenate(parts).tolist() for parts in kept]
    assert [len(set(one)) for one in names] == [len(one) for one in names]
    assert len(names) == 2
    assert set(names[0]) == set(names[1])
    refused = cdtl("compare", "tiny.toml", *views, *study[:-1], "refused", "--set", "model.backbone=test_vit")
    assert (refused[0], "cannot be run from behind its stage 2" in refused[2]) == (5, True)
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
@pytest.mark.ci
def test_a_study_killed_in_the_middle_is_resumed_to_the_same_bytes(cdtl: Cdtl, tmp_path: Path) -> None:
    """Two processes until the kill, this one after it, and this one alone for the whole: the same bytes."""
    assert cdtl("compare", "tiny.toml", *STUDY, "--out", "a", "--jobs", "1")[0] == 0
    kill_midway(tmp_path, cells=3)
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "b" / "cells").glob("*.json")}
    assert 3 <= len(left) < 16
    assert not (tmp_path / "b" / "compare.json").exists()
    code, _, lines = cdtl("compare", "--resume", "b", "--jobs", "1")
    assert code == 0, lines
    for name in ("compare.json", "curves.svg", "curves.png"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "b" / "cells").glob("*.json")}
    assert {name: now[name] for name in left} == left  # finished cells are not played again


def test_controls_and_several_targets_are_played(cdtl: Cdtl, tmp_path: Path) -> None:
    study = ("--seeds", "1", "--folds", "2", "--set", "train.steps=1", "--jobs", "1", "--out", "c")
    methods = "alone,fedbn,cdtl_from_theta0,cdtl,cdtl:shuffled,cdtl:phantom"
    code, _, error = cdtl("compare", "tiny.toml", "--methods", methods, "--target", "como", *study)
    assert code == 0, error
    (point,) = json.loads((tmp_path / "c" / "compare.json").read_text())["points"]
    assert point["target"] == "como"
    controls = {"cdtl_from_theta0", "cdtl:shuffled", "cdtl:phantom"}
    for method, result in point["results"].items():
        assert set(result["minus"]) == {"alone", *controls} - {method}
        assert (result["claim"] is None) == (method in {"alone", *controls})
        expected = "cdtl_from_theta0" if result["claim"] else None
        assert result["theta0_control"] == expected
    scores = [json.loads((tmp_path / "c" / "cells" / f"seed0-fold0-all-{m}.json").read_text()) for m in
              ("alone", "cdtl", "cdtl-shuffled", "cdtl-phantom")]  # fmt: skip
    first = [cell["targets"]["como"]["probabilities"] for cell in scores]
    assert len({json.dumps(probabilities) for probabilities in first}) == 4
    assert len({json.dumps(cell["targets"]["como"]["images"]) for cell in scores}) == 1

    every = ("--methods", "alone", "--patients", "5", *study[:-1], "d")
    code, _, error = cdtl("compare", "tiny.toml", *every)
    assert code == 0, error
    points = json.loads((tmp_path / "d" / "compare.json").read_text())["points"]
    assert [(point["target"], point["training_patients"]) for point in points] == [("alba", 5.0), ("como", 5.0)]


def test_the_time_left_is_told_in_words() -> None:
    assert [time_left(60, 0, 9), time_left(60, 2, 4), time_left(3600, 1, 3), time_left(60, 9, 0)] == [
        "", "2 min left", "3.0 h left", ""
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--methods", "alone,fedsgd"), 3, "the method 'fedsgd' is unknown"),
        (("--methods", "alone,cdtl:nothing"), 3, "the control 'cdtl:nothing' is unknown"),
        (("--methods", "cdtl"), 3, "add alone"),
        (("--methods", "alone,alone"), 3, "methods names one twice"),
        (("--methods", "alone,cdtl:shuffled"), 3, "name the receiving sites with --target"),
        (("--target", "rome"), 3, "the target 'rome' is no site"),
        (("--sites", "alba,rome"), 3, "the site 'rome' is no site"),
        (("--sites", "como", "--target", "alba"), 3, "use como"),
        (("--runs", "0"), 3, "1 run"),
        (("--patients", "4,500", "--target", "alba"), 4, "500 are asked"),
        (("--patients", "few"), 3, "patients has 'few'"),
        (("--folds", "1"), 3, "at least 2 folds"),
        (("--folds", "9"), 4, "has no patient in the"),
        (("--seeds", "0"), 3, "1 seed"),
        (("--set", "dp.enabled=true"), 3, "dp.enabled = false"),
        (("--set", "train.lrr=1"), 3, "train.lrr"),
        (("--set", "model.backbone=resnet0"), 5, "resnet0"),
        (("--out", "tiny.toml"), 6, "is a file"),
        (("--resume", "x"), 2, "not both"),
        (("--jobs", "0"), 2, "--jobs"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    cdtl: Cdtl, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    found, _, error = cdtl("compare", "tiny.toml", *arguments)
    assert (found, says in error) == (code, True), error
    assert "Traceback" not in error
    assert code == 2 or error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny.toml", "runs"}
    assert not any((tmp_path / "runs").glob("*"))


def test_resuming_takes_no_new_settings(cdtl: Cdtl) -> None:
    for own in (("--set", "train.lr=0.1"), ("--seeds", "3"), ("--methods", "alone"), ("--target", "alba")):
        found, _, error = cdtl("compare", "--resume", "a", *own)
        assert (found, "leave out all but" in error) == (2, True), error
    found, _, error = cdtl("compare", "--resume", "nowhere")
    assert (found, "holds no study" in error) == (6, True)
