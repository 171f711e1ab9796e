"""`cdtl server run` as a coordinator types it: what is wrong is refused before any site is asked."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdtl_core.deploy.enrolment import make_enrolment, save_enrolment
from cdtl_core.deploy.keys import make_key
from cdtl_core.deploy.request import load_request
from cdtl_core.deploy.runs import RunState, load_run_state, save_run_state
from cdtl_core.deploy.service import running_service
from tests.conftest import Cdtl, Done
from tests.deploy.conftest import contract
from tests.stub import TINY_SETTINGS, phantom_sites

SITES = phantom_sites()
RUN = Path("office/runs/tiny")
Start = Callable[..., Done]


@pytest.fixture
def office(cdtl: Cdtl, tmp_path: Path) -> Path:
    """A coordinator that has admitted two sites, and the files of a run and of a simulation."""
    assert cdtl("server", "init", "office", "--name", "localhost").code == 0
    for site, modality in (("alba", "ultrasound"), ("como", "histology")):
        join(cdtl, site, modality)
    Path("study.toml").write_text(TINY_SETTINGS)
    Path("simulation.toml").write_text(TINY_SETTINGS + SITES)
    return tmp_path / "office"


def join(cdtl: Cdtl, site: str, modality: str, **facts: object) -> None:
    enrolment = make_enrolment(make_key(Path(site)), contract(site, modality=modality, patients=10, **facts))
    save_enrolment(Path(f"{site}.json"), enrolment)
    assert cdtl("server", "admit", "office", f"{site}.json", "--yes").code == 0


@pytest.fixture
def run(cdtl: Cdtl, office: Path) -> Iterator[Start]:
    """`cdtl server run office study.toml`, while the coordinator's service runs."""

    def start(*options: str, config: str = "study.toml") -> Done:
        return cdtl("server", "run", "office", config, "--no-wait", *options)

    with running_service(office):
        yield start


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ("train.lrr=1", 3, "train.lrr"),
        ("blend.settle=2", 3, "leave at least one round"),
        ("federation.min_per_modality=2", 3, "federation.min_per_modality is 2"),
        ("aggregate.robust=median", 3, "no modality has that many"),
        ("blend.policy=fixed blend.alpha=0.1", 3, "swaps models"),
        ("blend.policy=fixed blend.donors={mri=[]}", 3, "blend.donors names 'mri'"),
        ("model.backbone=resnet0", 5, "resnet0"),
        ("train.freeze=99", 5, "train.freeze"),
        ("dp.enabled=true dp.required=true model.levels=[2,3]", 8, "site alba: "),
    ],
)
def test_it_refuses_before_the_request_what_simulate_refuses(
    cdtl: Cdtl, run: Start, settings: str, code: int, says: str
) -> None:
    options = [word for one in settings.split() for word in ("--set", one)]
    for done in (run("--yes", *options), cdtl("simulate", "simulation.toml", *options)):
        assert (done.code, says in done.err) == (code, True), done.err
    assert not any(Path("office/runs").iterdir())


def test_labels_are_compared_with_the_contracts(cdtl: Cdtl, run: Start) -> None:
    options = ["--set", 'task.labels=["benigno","maligno"]', "--set", "task.positive=maligno", "--yes"]
    refused = run(*options)
    assert refused.code == 7
    assert "site alba cannot take part: its contract says positive = 'malignant', but the run has 'maligno'" in (
        refused.err
    )
    assert not RUN.exists()
    join(cdtl, "bari", "ultrasound", labels=["benign", "malignant", "normal"])
    done = run("--yes")
    assert done.code == 0
    assert "Note: bari predicts benign, malignant, normal and the run benign, malignant: its head stays" in done.err


@pytest.mark.parametrize(("config", "of"), [("simulation.toml", "[[sites]]"), ("private", "[[sites]], methods")])
def test_settings_of_a_simulation_are_refused_with_what_to_do(run: Start, config: str, of: str) -> None:
    refused = run("--yes", config=config)
    assert refused.code == 3
    assert f"has {of}, of which a run between hospitals makes no use" in refused.err
    offered = refused.err.strip().rpartition("add ")[2].split()
    assert offered[0] == "--set"
    if config == "simulation.toml":
        assert run("--yes", *offered, config=config).code == 0
        assert load_request(RUN / "request.json").sites == ("alba", "como")


def test_a_run_that_is_declined_leaves_its_name_free(run: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in ("n\n", ""):  # no, and Ctrl-D or Ctrl-C
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert run().code != 0
        assert not RUN.exists()
    assert run("--yes", "--set", "train.steps=3").code == 0
    assert load_request(RUN / "request.json").settings["train.steps"] == 3


def test_a_failed_run_continues_with_its_settings_and_frees_its_name_for_others(run: Start, cdtl: Cdtl) -> None:
    assert run("--yes").code == 0
    save_run_state(RUN, RunState(status="failed", reason="too few sites", exit_code=7))
    join(cdtl, "bari", "ultrasound")
    again = run()
    assert again.code == 0, again.err
    assert "The run keeps its sites alba, como; not in it: bari." in again.err
    assert load_run_state(RUN).status == "queued"  # type: ignore[union-attr]
    save_run_state(RUN, RunState(status="failed", reason="too few sites", exit_code=7))
    other = run("--yes", "--set", "train.steps=3", "--set", 'federation.sites=["alba","bari"]')
    assert other.code == 0, other.err
    assert "kept in" in other.err
    assert load_request(RUN / "request.json").sites == ("alba", "bari")
    assert load_request(RUN.with_name(".tiny.failed") / "request.json").sites == ("alba", "como")


def test_a_name_in_use_is_refused_with_the_settings_that_differ(run: Start) -> None:
    assert run("--yes").code == 0
    refused = run("--yes", "--set", "train.steps=3")
    assert refused.code == 6
    for words in ("which is queued", "train.steps was 1 and is 3", "--set name=tiny-2"):
        assert words in refused.err


def test_a_private_run_keeps_its_name_when_it_failed(run: Start, cdtl: Cdtl) -> None:
    for site in ("alba", "como"):
        enrolment = make_enrolment(make_key(Path(f"{site}2")), contract(site, patients=200))
        save_enrolment(Path(f"{site}2.json"), enrolment)
        assert cdtl("server", "revoke", "office", site).code == 0
        assert cdtl("server", "admit", "office", f"{site}2.json", "--yes").code == 0
    private = ["--yes", "--set", "dp.enabled=true", "--set", "model.levels=[2,3]"]
    done = run(*private)
    assert done.code == 0, done.err
    save_run_state(RUN, RunState(status="failed"))
    assert run(*private).code == 0
    save_run_state(RUN, RunState(status="failed"))
    assert run(*private, "--set", "train.steps=3").code == 6


def test_a_finished_run_prints_its_table_and_is_not_played_again(run: Start, cdtl: Cdtl, office: Path) -> None:
    assert run("--yes").code == 0
    figures = {"test_auroc": 0.8123, "test_auroc_low": 0.7, "test_auroc_high": 0.9, "chosen": "pool"}
    lines = [
        {"method": "cdtl", "round": 1, "sites": {"alba": {"val_auroc": 0.5}}, "seconds": 1.0},
        {"method": "cdtl", "round": 2, "finish": {"alba": figures, "como": {"chosen": ""}}, "seconds": 1.0},
    ]
    (RUN / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_run_state(RUN, RunState(status="completed"))
    before = (RUN / "run.json").read_bytes()
    done = run()
    assert done.code == 0
    for words in ("alba", "0.812 (0.700 to 0.900)", "pool", "not sent", "Run tiny: completed"):
        assert words in done.out
    assert "not played again" in done.out
    assert (RUN / "run.json").read_bytes() == before
    assert run("--set", "train.steps=3").code == 6


def test_a_finished_run_is_shown_while_the_coordinator_does_not_run(cdtl: Cdtl, office: Path) -> None:
    with running_service(office):
        assert cdtl("server", "run", "office", "study.toml", "--no-wait", "--yes").code == 0
    save_run_state(RUN, RunState(status="completed"))
    assert "Run tiny: completed" in cdtl("server", "run", "office", "study.toml").out
    assert cdtl("server", "run", "office", "study.toml", "--set", "name=other").code == 7
