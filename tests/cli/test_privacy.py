"""`cdtl privacy` on the command line."""

import json
import re
from pathlib import Path

import pytest

from cdtl_core.cli.privacy_text import _ranges
from cdtl_core.privacy.accounting import epsilon_prv
from cdtl_core.privacy.ledger import Budget, commit, open_ledger, reserve
from cdtl_core.privacy.ledger_file import read_ledger
from tests.conftest import Cdtl
from tests.privacy.test_ledger import of_earlier_version

BUDGET = Budget(target_epsilon=8.0, target_delta=1e-5, sample_rate=1.0, steps=60)


def spend(folder: Path, *, run: str = "study", rounds: int = 3, committed: int = 3) -> None:
    open_ledger(folder, site="north", num_patients=200, clock=lambda: 1.8e9)
    for number in range(1, rounds + 1):
        reservation = reserve(folder, run=run, round=number, steps=12, budget=BUDGET)
        assert reservation is not None
        if number <= committed:
            commit(folder, reservation, 12)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    spend(tmp_path / "north" / "privacy", committed=2)
    return tmp_path / "north"


def test_a_ledger_is_told_to_a_person(cdtl: Cdtl, home: Path) -> None:
    ledger = read_ledger(home / "privacy")
    done = cdtl("privacy", "ledger", "north")
    assert (done.code, done.err) == (0, "")
    spent, noise = ledger.epsilon(1e-5), ledger.history[0].noise_multiplier
    for words in (
        f"Ledger {ledger.opening.ledger[:8]} of north in north/privacy, opened 2027-01-15, 200 training patients",
        f"Spent: epsilon {spent:.3f} by RDP (held against the targets), {epsilon_prv(ledger.history, 1e-5):.3f} by PRV",
        f"Run study: target 8 at delta 1e-05; left: epsilon {8 - spent:.3f}, or 24 steps of its noise.",
        f"rounds 1-3: 36 steps, noise {noise:.4f}, sample rate 1",
        "round 3: 12 steps reserved and never committed; all count",
        f"by a factor of at most e^{spent:.2f}, except with probability 1e-05; spending on the same patient's images",
    ):
        assert words in done.out, done.out


def test_a_ledger_is_told_as_data_and_reading_changes_nothing(cdtl: Cdtl, home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    done = cdtl("privacy", "ledger", "north", "--json")
    (told,) = json.loads(done.out)["ledgers"]
    ledger = read_ledger(home / "privacy")
    assert told["epsilon_rdp"] == ledger.epsilon(1e-5)
    assert told["ledger"] == ledger.opening.ledger
    (run,) = told["runs"]
    assert [(one["round"], one["reserved"], one["taken"]) for one in run["rounds"]] == [
        (1, 12, 12),
        (2, 12, 12),
        (3, 12, None),
    ]
    assert run["left_epsilon"] == pytest.approx(8 - told["epsilon_rdp"])
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_steps_left_are_steps_that_can_be_taken(cdtl: Cdtl, home: Path) -> None:
    (told,) = json.loads(cdtl("privacy", "ledger", "north", "--json").out)["ledgers"]
    given = reserve(home / "privacy", run="study", round=4, steps=100, budget=BUDGET)
    assert given is not None
    assert given.steps == told["runs"][0]["left_steps"] == 24
    assert "left: not one step." in cdtl("privacy", "ledger", "north").out


def test_simulated_runs_have_a_ledger_each(cdtl: Cdtl, tmp_path: Path) -> None:
    for run in ("demo-cdtl", "demo-fedbn"):
        spend(tmp_path / "alba" / "privacy" / run, run=run, rounds=1)
    done = cdtl("privacy", "ledger", "alba")
    assert done.out.count("Ledger ") == done.out.count("This means") == 2
    assert len(json.loads(cdtl("privacy", "ledger", "alba", "--json").out)["ledgers"]) == 2


def test_a_site_that_never_trained_with_privacy_is_told_so(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    done = cdtl("privacy", "ledger", "new")
    assert done.code == 0
    assert done.out == "No steps with differential privacy have been taken here: new/privacy holds no ledger.\n"
    assert json.loads(cdtl("privacy", "ledger", "new", "--json").out) == {"ledgers": []}
    open_ledger(tmp_path / "new" / "privacy", site="new", num_patients=50)
    assert "Nothing is spent." in cdtl("privacy", "ledger", "new").out


@pytest.mark.parametrize("fault", ["byte", "line", "gone", "head"])
@pytest.mark.parametrize("run", ["", "demo-cdtl"])
def test_a_damaged_ledger_is_one_sentence_and_exit_code_8(
    cdtl: Cdtl,
    tmp_path: Path,
    fault: str,
    run: str,
) -> None:
    folder = tmp_path / "alba" / "privacy" / run
    spend(folder, rounds=1)
    path = folder / "ledger.jsonl"
    whole = path.read_bytes()
    if fault == "byte":
        path.write_bytes(whole.replace(b'"steps": 12', b'"steps": 11', 1))
    elif fault == "line":
        path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    else:
        (path if fault == "gone" else folder / "head.json").unlink()
    done = cdtl("privacy", "ledger", "alba")
    assert (done.code, done.out) == (8, "")
    says = {"byte": "is damaged in line 3", "line": "has 3 lines but had 4", "gone": "cannot be read"}
    assert says.get(fault, "no head.json") in done.err
    assert done.err.count("\n") == 1
    assert "restore the newest copy" in done.err


def test_a_plan_is_told_to_a_person(cdtl: Cdtl) -> None:
    options = ("--patients", "200", "--epsilon", "8", "--rounds", "5", "--config", "tiny.toml", "--steps", "12")
    done = cdtl("privacy", "plan", *options)
    assert (done.code, done.err) == (0, "")
    for words in (
        "steps             60 (5 rounds of 12)",
        "sample rate q     1, 200 patients expected in a step",
        "times the clip C = 1.5",
        "Trained: head, 66 parameters",
        "Workable: ",
        "head + adapter of 16",
        "head + last stage",
        "head + whole backbone",
        "Workable up to 0.20 over all steps, marginal up to 1.00",
    ):
        assert words in done.out, done.out


def test_options_of_a_plan_replace_what_the_file_says(cdtl: Cdtl, tmp_path: Path) -> None:
    with open(tmp_path / "tiny.toml", "a") as file:
        file.write("[dp]\ntarget_epsilon = 2.0\nbatch_patients = 50\n")
    plan = ("privacy", "plan", "--json", "--config", "tiny.toml", "--patients", "200")
    told = json.loads(cdtl(*plan).out)
    assert (told["steps"], told["target_epsilon"], told["sample_rate"]) == (2, 2, 0.25)
    options = ("--epsilon", "4", "--rounds", "3", "--steps", "7", "--delta", "1e-4", "--clip", "0.1", "--batch", "20")
    told = json.loads(cdtl(*plan, *options).out)
    assert (told["steps"], told["target_epsilon"], told["sample_rate"]) == (21, 4, 0.1)
    assert (told["target_delta"], told["max_grad_norm"], told["expected_patients"]) == (1e-4, 0.1, 20)
    assert told["epsilon_prv"] < told["epsilon_rdp"] <= 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("plan",), 2, "--patients"),
        (("plan", "--patients", "many"), 2, "many"),
        (("plan", "--patients", "1"), 8, "too few for privacy"),
        (("plan", "--patients", "0"), 8, "too few for privacy"),
        (("plan", "--patients", "200", "--delta", "0.005"), 8, "not below 1 / 200"),
        (("plan", "--patients", "200", "--delta", "2"), 3, "dp.target_delta"),
        (("plan", "--patients", "200", "--epsilon", "0"), 3, "dp.target_epsilon"),
        (("plan", "--patients", "200", "--epsilon", "-1"), 3, "dp.target_epsilon"),
        (("plan", "--patients", "200", "--epsilon", "inf"), 3, "dp.target_epsilon"),
        (("plan", "--patients", "200", "--epsilon", "0.05"), 8, "leaves no room for 96 steps: raise the target"),
        (("plan", "--patients", "200", "--batch", "201"), 3, "a step takes 201 patients (dp.batch_patients)"),
        (("plan", "--patients", "200", "--rounds", "0"), 3, "federation.rounds"),
        (("plan", "--patients", "200", "--steps", "0"), 3, "train.steps is 0"),
        (("plan", "--patients", "200", "--clip", "0"), 3, "dp.max_grad_norm"),
        (("plan", "--patients", "200", "--config", "none.toml"), 3, "none.toml does not exist"),
        (("ledger",), 2, "SITE_DIR"),
        (("ledger", "nowhere"), 3, "nowhere is not a folder"),
        (("ledger", "tiny.toml"), 3, "tiny.toml is not a folder"),
    ],
)
def test_wrong_input_is_one_sentence(cdtl: Cdtl, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = cdtl("privacy", *arguments)
    assert done.code == code, done.err
    assert says in done.err
    assert done.out == ""
    if code != 2:
        assert done.err.startswith("Error: ")
        assert done.err.count("\n") == 1


def test_rounds_are_named_in_ranges() -> None:
    assert _ranges([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7-8"


def test_the_plan_in_the_page_is_what_the_command_prints(cdtl: Cdtl) -> None:
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
    command, shown = re.findall(r"^```console\n\$ cdtl (.*?)\n```\n\n```text\n(.*?)```$", page, re.M | re.S)[0]
    printed = cdtl(*command.split()).out
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()


def test_what_epsilon_does_not_cover_is_said_plainly(cdtl: Cdtl, home: Path) -> None:
    assert "NOT COVERED" not in cdtl("privacy", "ledger", "north").out
    of_earlier_version(home / "privacy")
    (home / "rounds").mkdir()
    (home / "rounds" / "open-cdtl.jsonl").write_text('{"round": 1, "seconds": 1.0, "val_loss": 0.5}\n')
    (home / "rounds" / "study.jsonl").write_text('{"round": 1, "seconds": 1.0, "bytes_sent": 5}\n')
    done = cdtl("privacy", "ledger", "north")
    for words in (
        "Spent: epsilon 0.000 by RDP",
        "(faulty mechanism, not counted)",
        "NOT COVERED: 36 steps of study were taken by an earlier version of cdtl whose noise gives no bound",
        "NOT COVERED: This site also sent updates without differential privacy, in open-cdtl: epsilon does not cover",
        "This means: except for what NOT COVERED lists, adding or removing",
    ):
        assert words in done.out, done.out
    (told,) = json.loads(cdtl("privacy", "ledger", "north", "--json").out)["ledgers"]
    assert told["unprotected"] == ["open-cdtl"]
    assert all(one["faulty"] for run in told["runs"] for one in run["rounds"])


def test_a_site_without_a_ledger_is_told_of_its_runs_without_privacy(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "new" / "rounds").mkdir(parents=True)
    (tmp_path / "new" / "rounds" / "open-cdtl.jsonl").write_text('{"round": 1, "val_loss": null}\n')
    assert "sent updates without differential privacy in open-cdtl." in cdtl("privacy", "ledger", "new").out
