"""Whole comparisons on synthetic images: results, kills, wrong input."""

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
from scipy.stats import rankdata

from cdtl_core.cli.cells import time_left
from cdtl_core.config.settings import load_simulation
from cdtl_core.federation.evidence import on_features
from cdtl_core.metrics.metrics import auroc
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.simulation.arms import arm_of
from cdtl_core.simulation.cell import open_sites, scores_of
from cdtl_core.simulation.folds import scarce_site
from cdtl_core.simulation.methods.method import federation_of
from tests.conftest import Cdtl
from tests.stub import STUB, TINY_SETTINGS

TINY = (
    TINY_SETTINGS
    + """
[[sites]]
site = "alba"
modality = "ultrasound"
data.phantom = { patients = 24, seed = 1 }
[[sites]]
site = "como"
modality = "histology"
data.phantom = { patients = 16, seed = 2 }
"""
)
THIRD = """
[[sites]]
site = "bari"
modality = "ultrasound"
data.phantom = { patients = 24, seed = 3 }
"""
STUDY = ("--methods", "alone,cdtl", "--seeds", "2", "--folds", "2", "--patients", "4,all", "--target", "alba")


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)


def kill_midway(folder: Path, cells: int) -> None:
    """Start the study as a command with two processes, kill it after some cells, and see that no process is left."""
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
    assert "8 of 8 cells; alba, seed 1, fold 1, all patients" in lines
    for word in (
        "cdtl",
        "SYNTHETIC",
        "No gain is shown for cdtl",
        "add cdtl:shuffled",
        "curves.png",
        "log-loss of cdtl",
    ):
        assert word in table
    whole = (tmp_path / "a" / "compare.json").read_bytes()
    found = json.loads(whole)
    assert (found["schema_version"], found["seeds"], found["methods"]) == (2, [0, 1], ["alone", "cdtl"])
    assert [(point["patients"], point["training_patients"]) for point in found["points"]] == [(4, 4.0), ("all", 8.0)]
    for point in found["points"]:
        assert (point["target"], point["tested_patients"], point["donor_sites"]) == ("alba", 24, ["como"])
        assert set(point["results"]) == {"alone", "cdtl"}
        assert set(point["results"]["cdtl"]["minus"]) == {"alone"}
        assert len(point["results"]["cdtl"]["auroc_by_draw"]) == 2
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
    curves = (tmp_path / "a" / "curves.svg").read_bytes()

    for file in (tmp_path / "a" / "cells").glob("alba-seed1-*"):
        file.unlink()
    (tmp_path / "a" / "compare.json").unlink()
    code, out, lines = cdtl("compare", "--resume", "a", "--jobs", "1", "--json")
    assert code == 0, lines
    assert lines.startswith("4 of 8 cells\n5 of 8 cells; alba, seed 1, fold 0, 4 patients")
    assert json.loads(out) == found
    assert (tmp_path / "a" / "compare.json").read_bytes() == whole
    assert (tmp_path / "a" / "curves.svg").read_bytes() == curves

    (tmp_path / "a" / "cells" / "alba-seed1-fold1-4.json").unlink()
    cohorts = tmp_path / "a" / "cohorts.json"
    cohorts.write_text(cohorts.read_text().replace('"como": "', '"como": "x'))
    code, _, error = cdtl("compare", "--resume", "a", "--jobs", "1")
    assert (code, "the patients of site como have changed" in error) == (6, True)

    study = tmp_path / "a" / "study.json"
    study.write_text(study.read_text().replace('"schema_version": 2', '"schema_version": 1'))
    code, _, error = cdtl("compare", "--resume", "a", "--jobs", "1")
    assert (code, "a study of another version" in error, error.count("\n")) == (6, True, 1)


def test_runs_train_the_same_patients_again_and_a_draw_is_their_mean(cdtl: Cdtl, tmp_path: Path) -> None:
    also = ("--seeds", "1", "--folds", "2", "--patients", "4", "--target", "alba", "--sites", "alba")
    code, _, error = cdtl(
        "compare", "tiny.toml", "--methods", "alone", *also, "--runs", "2", "--out", "a", "--jobs", "1"
    )
    assert code == 0, error
    assert "como" not in (tmp_path / "a" / "settings.toml").read_text()

    def cell(fold: int, run: str) -> dict[str, Any]:
        text = (tmp_path / "a" / "cells" / f"alba-seed0-fold{fold}-4{run}.json").read_text()
        found: dict[str, Any] = json.loads(text)
        return found

    pairs = [(cell(fold, ""), cell(fold, "-run1")) for fold in range(2)]
    for first, second in pairs:
        assert (first["images"], first["labels"]) == (second["images"], second["labels"])
        assert first["scores"] != second["scores"]
    truth = np.concatenate([np.array(first["labels"]) == first["positive"] for first, _ in pairs])
    means = [np.mean([one["scores"]["all"]["alone"] for one in pair], axis=0)[:, 1] for pair in pairs]
    ranks = np.concatenate([(rankdata(mean) - 0.5) / len(mean) for mean in means])
    found = json.loads((tmp_path / "a" / "compare.json").read_text())
    assert (found["runs"], pairs[0][0]["positive"]) == (2, 1)
    assert found["points"][0]["results"]["alone"]["auroc_by_draw"] == [pytest.approx(auroc(truth, ranks))]


def test_cells_share_what_frozen_stages_say_of_an_image(cdtl: Cdtl, tmp_path: Path) -> None:
    """Over folds and methods each image is computed once for each seed, which has initial weights of its own."""
    views = ("--set", "train.freeze=2", "--set", "train.views=2")
    study = ("--methods", "alone,pooled", "--seeds", "2", "--folds", "2", "--jobs", "1", "--out", "shared")
    code, _, lines = cdtl("compare", "tiny.toml", *views, *study)
    assert code == 0, lines
    kept = [[np.load(path)["image"] for path in key.glob("*.npy")] for key in (tmp_path / "shared" / "cache").iterdir()]
    names = [np.concatenate(parts).tolist() for parts in kept]
    assert [len(set(one)) for one in names] == [len(one) for one in names]
    assert len(names) == 2
    assert set(names[0]) == set(names[1])
    refused = cdtl("compare", "tiny.toml", *views, *study[:-1], "refused", "--set", "model.backbone=unet")
    assert (refused[0], "cannot be run from the output of its stage 2" in refused[2]) == (5, True)
    assert not (tmp_path / "refused").exists()


def test_a_cells_scores_are_those_of_each_method_played_by_itself(cdtl: Cdtl, tmp_path: Path) -> None:
    """Heads on features; nothing of what methods, donors and sizes share while they are played changes a bit."""
    (tmp_path / "tiny.toml").write_text((tmp_path / "tiny.toml").read_text() + THIRD)
    heads = ("model.levels=[2,3]", "train.freeze=3", "train.views=1", "train.steps=3")
    arms = ("alone", "fedavg", "fedbn", "cdtl", "cdtl:shuffled")
    study = (
        "--target",
        "alba",
        "--donors",
        "other,all",
        "--patients",
        "4,6",
        "--seeds",
        "1",
        "--folds",
        "2",
        "--jobs",
        "1",
    )
    changes = [word for change in heads for word in ("--set", change)]
    code, _, error = cdtl("compare", "tiny.toml", *changes, "--methods", ",".join(arms), *study, "--out", "a")
    assert code == 0, error
    config = load_simulation(tmp_path / "a" / "settings.toml")
    initial_weights = build_initial_weights(config.run.model, config.run.seed, config.run.image.size)
    sites = [on_features(site, initial_weights) for site in open_sites(config, tmp_path / "a")]
    for patients in (4, 6):
        cell = json.loads((tmp_path / "a" / "cells" / f"alba-seed0-fold1-{patients}.json").read_text())
        for donors in ("other", "all"):
            for name in arms:
                alba = scarce_site(sites[0], seed=0, fold=1, folds=2, patients=patients)
                membership = [alba, *(site for site in sites[1:] if donors == "all" or site.modality != "ultrasound")]
                federation = federation_of(membership, {}, config.run, receivers=["alba"])
                model = arm_of(name).play(federation, seed=0, folder=tmp_path)
                assert cell["scores"][donors][name] == scores_of(alba, model)["probabilities"], (patients, donors, name)
    assert cell["scores"]["other"]["cdtl"] != cell["scores"]["all"]["cdtl"]


@pytest.mark.slow
@pytest.mark.ci
def test_a_study_killed_in_the_middle_is_resumed_to_the_same_bytes(cdtl: Cdtl, tmp_path: Path) -> None:
    """Two processes until the kill, this one after it, and this one alone for the whole: the same bytes."""
    (tmp_path / "tiny.toml").write_text(TINY.replace(STUB, "test_efficientnet"))  # other processes know no stub
    assert cdtl("compare", "tiny.toml", *STUDY, "--out", "a", "--jobs", "1")[0] == 0
    kill_midway(tmp_path, cells=3)
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "b" / "cells").glob("*.json")}
    assert 3 <= len(left) < 8
    assert not (tmp_path / "b" / "compare.json").exists()
    code, _, lines = cdtl("compare", "--resume", "b", "--jobs", "1")
    assert code == 0, lines
    for name in ("compare.json", "curves.svg", "curves.png"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "b" / "cells").glob("*.json")}
    assert {name: now[name] for name in left} == left  # finished cells are not played again


def test_one_receiver_at_a_time_is_scarce_and_takes_from_each_set_of_donors(cdtl: Cdtl, tmp_path: Path) -> None:
    """What is left out is said, and other sites keep their patients."""
    config = (tmp_path / "tiny.toml").read_text()
    (tmp_path / "tiny.toml").write_text(config + THIRD)
    also = ("--patients", "4,6", "--donors", "other,all", "--seeds", "1", "--folds", "2", "--jobs", "1", "--out", "c")
    heads = ("--set", "model.levels=[2,3]", "--set", "train.freeze=3", "--set", "train.views=1")
    code, table, error = cdtl("compare", "tiny.toml", *heads, "--methods", "alone,fedbn,cdtl,cdtl:shuffled", *also)
    assert code == 0, error
    found = json.loads((tmp_path / "c" / "compare.json").read_text())
    parts = [(one["target"], one["donors"], one["patients"], one["donor_sites"]) for one in found["points"]]
    assert parts == [
        ("alba", "other", 4, ["como"]), ("alba", "other", 6, ["como"]),
        ("alba", "all", 4, ["como", "bari"]), ("alba", "all", 6, ["como", "bari"]),
        ("como", "other", 4, ["alba", "bari"]), ("como", "all", 4, ["alba", "bari"]),
        ("bari", "other", 4, ["como"]), ("bari", "other", 6, ["como"]),
        ("bari", "all", 4, ["alba", "como"]), ("bari", "all", 6, ["alba", "como"]),
    ]  # fmt: skip
    assert [(one["target"], one["patients"], one["donors"]) for one in found["left_out"]] == [("como", 6, None)]
    assert "left out: como, 6 patients: site como has 5 training patients" in table
    for row in found["rows"]:
        here = [one for one in found["points"] if (one["donors"], one["patients"]) == (row["donors"], row["patients"])]
        tested = sum(one["tested_patients"] for one in here)
        assert f"{row['auroc']:.3f} ({tested})" in table, "each AUROC has its test patients beside it"
    cell = json.loads((tmp_path / "c" / "cells" / "alba-seed0-fold0-4.json").read_text())
    assert cell["scores"]["other"]["alone"] == cell["scores"]["all"]["alone"]
    assert cell["scores"]["other"]["fedbn"] != cell["scores"]["all"]["fedbn"]
    for method in ("fedbn", "cdtl"):
        rows = [row for row in found["rows"] if row["method"] == method]
        assert [(row["donors"], row["patients"], len(row["receivers"])) for row in rows] == [
            ("other", 4, 3), ("other", 6, 2), ("all", 4, 3), ("all", 6, 2)
        ]  # fmt: skip
        for row in rows:
            assert row["gain"]["value"] == pytest.approx(np.mean(list(row["gains"].values())))
            assert row["gains"][row["worst"]] == min(row["gains"].values())
            assert (row["less_control"] is None, row["claim"]) == (method == "fedbn", "no evidence of gain")
    assert found["outcomes"]["patients"] == 4
    assert found["outcomes"]["worst"] == min(
        row["gains"][row["worst"]] for row in found["rows"] if row["method"] == "cdtl"
    )


def test_controls_are_played(cdtl: Cdtl, tmp_path: Path) -> None:
    arms = (
        "alone",
        "fedbn",
        "cdtl",
        "cdtl:shuffled",
        "cdtl:phantom",
        "cdtl:initial",
        "own_twice",
        "cdtl_from_initial_weights",
    )
    study = ("--seeds", "1", "--folds", "2", "--target", "como", "--jobs", "1", "--out", "c")
    code, _, error = cdtl("compare", "tiny.toml", "--methods", ",".join(arms), *study)
    assert code == 0, error
    found = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert {row["method"]: row["claim"] for row in found["rows"]} == {
        arm: "no evidence of gain" if arm in {"fedbn", "cdtl"} else None for arm in arms
    }
    assert set(found["points"][0]["results"]["cdtl"]["minus"]) == {"alone", "fedbn", "cdtl:shuffled"}
    scores = json.loads((tmp_path / "c" / "cells" / "como-seed0-fold0-all.json").read_text())["scores"]["all"]
    assert set(scores) == set(arms)
    assert len({json.dumps(probabilities) for probabilities in scores.values()}) == len(arms)


def test_the_time_left_is_told_in_words() -> None:
    assert [time_left(60, 0, 9), time_left(60, 2, 4), time_left(3600, 1, 3), time_left(60, 9, 0)] == [
        "", "2 min left", "3.0 h left", ""
    ]  # fmt: skip
