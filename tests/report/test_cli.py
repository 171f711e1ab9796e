"""Output of the command line: JSON for scripts, no colour where it is not allowed, one sentence on stderr."""

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cdtl_core.models.weights import load_weights
from cdtl_core.report.headline import selection_sentence
from cdtl_core.report.page import SECTIONS
from cdtl_core.results.card import load_card
from cdtl_core.results.report import ModelChoice
from cdtl_core.results.text import card_markdown
from tests.conftest import Cdtl
from tests.report.conftest import Hospitals


def test_report_writes_one_file_and_says_where(cdtl: Cdtl, finished: Path, tmp_path: Path) -> None:
    done = cdtl("report", finished, "--out", tmp_path / "r.html", "--json")
    told = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert told["bytes"] == (tmp_path / "r.html").stat().st_size < 3_000_000
    assert set(told["without_material"]) < set(SECTIONS)
    done = cdtl("report", finished, "--site", "alba")
    assert "stays at the site" in done.out
    assert (finished / "sites" / "alba" / "report.html").exists()
    assert cdtl("report", finished, "--site", "roma").err.startswith("Error: ")
    assert cdtl("report", tmp_path / "nowhere").code == 6


def test_a_site_without_a_run_has_a_report_that_says_so(cdtl: Cdtl, tmp_path: Path) -> None:
    assert cdtl("site", "init", "alba", "--name", "alba", "--modality", "mri", "--phantom", 16).code == 0
    done = cdtl("report", "alba")
    assert (done.code, done.err) == (0, "")
    assert "No run has left a model at this site yet" in (tmp_path / "alba" / "report.html").read_text()


def test_a_coordinators_report_lies_in_its_run(cdtl: Cdtl, hospitals: Hospitals) -> None:
    assert cdtl("report", hospitals.coordinator).code == 0
    assert (hospitals.run / "report.html").exists()
    assert cdtl("report", hospitals.coordinator, "--run", "other").code == 3


def test_the_card_is_printed_as_text_and_as_json(cdtl: Cdtl, finished: Path, tmp_path: Path) -> None:
    home = finished / "sites" / "alba"
    text, told = cdtl("model", "card", home).out, json.loads(cdtl("model", "card", home, "--json").out)
    assert text == (home / "model_card.md").read_text()
    assert told == json.loads((home / "model_card.json").read_text())
    report = json.loads((finished / "report.json").read_text())["sites"][0]
    assert told["metrics"]["auroc"] == report["results"]["cdtl"]["auroc"]
    assert told["gain"]["used-alone"] == report["gain"]["cdtl-alone"]
    assert told["blend"]["transfer"] is not None
    assert told["cohort"]["patients"] == report["patients"]
    assert told["bundle_sha256"] is None
    assert "not a medical device" in text
    assert "Synthetic images" in text
    assert cdtl("model", "card", tmp_path).code == 5


def test_card_and_report_say_how_many_networks_a_prediction_runs(finished: Path) -> None:
    home = finished / "sites" / "alba"
    card, site = load_card(home), json.loads((finished / "report.json").read_text())["sites"][0]
    assert card is not None
    assert card.pool is not None
    network = sum(value.numel() for value in load_weights(home / "models" / "tiny-cdtl" / "own.safetensors").values())
    assert network < card.parameters < 2 * network  # statistics of norms are no parameters
    assert "two networks side by side" in (home / "model_card.md").read_text()
    choice = ModelChoice.model_validate(site["selection"])
    assert selection_sentence(choice).endswith("as two networks side by side.")
    told = {"networks": 1, "networks_log_loss": {"one": 0.25, "two": 0.5}}
    pool = card.pool.model_copy(update=told)
    text = card_markdown(card.model_copy(update={"pool": pool}))
    assert "one network between the two (validation log-loss: one 0.2500, two 0.5000)" in text
    assert "one network between" not in card_markdown(card.model_copy(update={"pool": pool, "chosen": "own"}))
    sentence = selection_sentence(choice.model_copy(update=told))
    assert sentence.endswith("as one network between the two (validation log-loss 0.2500; two networks: 0.5000).")
    worse = selection_sentence(choice.model_copy(update={**told, "networks": 2}))
    assert worse.endswith("as two networks side by side (validation log-loss 0.5000; one between them: 0.2500).")


def test_a_hospitals_card_names_the_code_it_approved(hospitals: Hospitals) -> None:
    told = json.loads((hospitals.homes["alba"] / "models" / "study-cdtl" / "model_card.json").read_text())
    assert told["bundle_sha256"] == json.loads((hospitals.run / "request.json").read_text())["bundle_sha256"]
    assert told["blend"]["transfer"] is None


def test_predict_as_json(cdtl: Cdtl, finished: Path) -> None:
    home = finished / "sites" / "alba"
    image = next(home.glob("cache/phantoms-*/images/*.png"))
    told = json.loads(cdtl("predict", home, image, "--json").out)
    (one,) = told["predictions"]
    assert told["kind"] in {"raw", "calibrated"}
    assert sum(one["probabilities"].values()) == pytest.approx(1)


def test_doctor_looks_at_everything_and_changes_nothing(cdtl: Cdtl, tmp_path: Path) -> None:
    done = cdtl("doctor", tmp_path / "later", "--json")
    found = json.loads(done.out)["checks"]
    assert {one["name"] for one in found} == {"versions", "device", "memory", "disk", "ports", "isolation", "clock"}
    assert done.code == int(any(one["state"] == "wrong" for one in found))
    extras = next(one["text"] for one in found if one["text"].startswith("extras: "))
    assert ("fast" in extras.partition(" of ")[0]) == (find_spec("numba") is not None)
    assert list(tmp_path.iterdir()) == []
    assert "\x1b[" not in cdtl("doctor", tmp_path).out
    quick = json.loads(cdtl("doctor", tmp_path, "--quick", "--json").out)["checks"]
    assert {one["name"] for one in quick} == {one["name"] for one in found} - {"device"}


def test_no_color_is_heard_and_completion_offered() -> None:
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "cdtl_core.cli.main"]
    shown = {"capture_output": True, "text": True, "timeout": 60, "env": environment}
    wrong = subprocess.run([*command, "report"], **shown)  # type: ignore[call-overload]
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "\x1b[" not in wrong.stderr
    asked = f"{shlex.join(command)} --show-completion; true"  # the shell is found among the parents, if not replaced
    script = subprocess.run(["bash", "-c", asked], **shown)  # type: ignore[call-overload]
    assert "complete -o" in script.stdout, script.stderr
