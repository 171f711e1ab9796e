"""The privacy ledger: its sums over restarts, kills and parallel processes, and its refusals."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cdtl_core.errors import PrivacyError
from cdtl_core.privacy.accounting import Steps, epsilon, epsilon_prv
from cdtl_core.privacy.ledger import Budget, commit, note_unprotected, open_ledger, reserve
from cdtl_core.privacy.ledger_file import ledger_exists, read_ledger

ROOT = Path(__file__).parents[2]
DELTA = 1e-4
BUDGET = Budget(target_epsilon=18.16, target_delta=DELTA, sample_rate=0.16, steps=240)
AMPLE = Budget(target_epsilon=4.0, target_delta=DELTA, sample_rate=1.0, steps=60)
FAST = Budget(target_epsilon=4.0, target_delta=DELTA, sample_rate=1.0, steps=30)
"""Without sampling a plan takes milliseconds."""


def trained(folder: Path, rounds: range, *, run: str = "study", steps: int = 12, budget: Budget = BUDGET) -> None:
    for number in rounds:
        reservation = reserve(folder, run=run, round=number, steps=steps, budget=budget)
        assert reservation is not None
        commit(folder, reservation, reservation.steps)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own."""
    start = f"import sys, time\nfrom pathlib import Path\nfrom tests.privacy.test_ledger import *\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def opacus(kind: str, noise: float, steps: int) -> float:
    from opacus import accountants  # seconds, for these tests alone

    accountant = getattr(accountants, kind)()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=0.16)
    return float(accountant.get_epsilon(delta=DELTA))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    open_ledger(tmp_path / "privacy", site="alba", num_patients=200)
    return tmp_path / "privacy"


@pytest.fixture
def written(folder: Path) -> Path:
    """A ledger of six lines: opening, plan, two rounds with their commitments."""
    trained(folder, range(1, 3), budget=FAST)
    return folder


@pytest.mark.slow
@pytest.mark.ci
def test_twenty_rounds_and_a_restart_cost_what_opacus_says_of_all_their_steps(folder: Path) -> None:
    trained(folder, range(1, 11))
    code = "trained(Path(sys.argv[1]), range(11, 21)); print(read_ledger(Path(sys.argv[1])).epsilon(DELTA))"
    told, _ = python(code, folder).communicate(timeout=120)
    ledger = read_ledger(folder)
    noise = ledger.history[0].noise_multiplier
    assert noise == pytest.approx(1.0, abs=1e-3)
    assert ledger.history == (Steps(noise, 0.16, 240),)
    assert ledger.epsilon(DELTA) == float(told) == pytest.approx(opacus("RDPAccountant", noise, 240), abs=1e-6)
    assert ledger.epsilon(DELTA) == pytest.approx(18.16, abs=0.02)
    assert epsilon_prv(ledger.history, DELTA) == pytest.approx(opacus("PRVAccountant", noise, 240), abs=1e-6)
    assert ledger.epsilon(DELTA) <= BUDGET.target_epsilon
    assert reserve(folder, run="study", round=21, steps=12, budget=BUDGET) is None


@pytest.mark.slow
@pytest.mark.ci
def test_a_kill_between_reserve_and_commit_counts_in_full(folder: Path) -> None:
    trained(folder, range(1, 3))
    code = "reserve(Path(sys.argv[1]), run='study', round=3, steps=12, budget=BUDGET); print('reserved', flush=True)\n"
    process = python(code + "time.sleep(600)", folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "reserved\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    ledger = read_ledger(folder)
    noise = ledger.history[0].noise_multiplier
    assert ledger.history == (Steps(noise, 0.16, 36),)
    assert ledger.epsilon(DELTA) >= opacus("RDPAccountant", noise, 36) - 1e-9
    trained(folder, range(3, 4))  # the dead process does not hold the lock
    assert read_ledger(folder).history == (Steps(noise, 0.16, 48),)


@pytest.mark.slow
@pytest.mark.ci
def test_processes_that_reserve_at_once_lose_nothing_and_never_disturb_a_reader(folder: Path) -> None:
    code = "while not Path('{go}').exists(): time.sleep(0.001)\n"
    code += "trained(Path(sys.argv[1]), range(1, 21), run=sys.argv[2], steps=1, budget=AMPLE)"
    go = folder.parent / "go"
    processes = [python(code.format(go=go), folder, run) for run in ("first", "second")]
    go.touch()
    while any(process.poll() is None for process in processes):
        read_ledger(folder)
    for process in processes:
        process.communicate(timeout=30)
    assert [process.returncode for process in processes] == [0, 0]
    ledger = read_ledger(folder)
    assert [one.number for one in ledger.reservations] == list(range(40))
    assert sorted((one.run, one.round) for one in ledger.reservations) == [
        (run, number) for run in ("first", "second") for number in range(1, 21)
    ]
    assert sum(one.steps for one in ledger.history) == 40


def test_steps_are_cut_at_the_end_and_then_there_are_none(folder: Path) -> None:
    given = []
    while (one := reserve(folder, run="study", round=len(given) + 1, steps=12, budget=FAST)) is not None:
        given.append(one.steps)
    assert given[:2] == [12, 12]
    assert 30 <= sum(given) <= 31  # the least noise for 30 steps may leave room for a further one
    ledger = read_ledger(folder)
    noise = ledger.history[0].noise_multiplier
    assert ledger.epsilon(DELTA) <= FAST.target_epsilon * (1 + 1e-9)
    assert epsilon([*ledger.history, Steps(noise, 1.0, 1)], DELTA) > FAST.target_epsilon


def test_a_run_given_a_history_plans_within_what_is_left(folder: Path) -> None:
    trained(folder, range(1, 3), budget=FAST)
    larger = Budget(target_epsilon=6.0, target_delta=DELTA, sample_rate=1.0, steps=30)
    trained(folder, range(1, 4), run="next", steps=10, budget=larger)
    ledger = read_ledger(folder)
    first, second = ledger.plan_of("study"), ledger.plan_of("next")
    assert first is not None
    assert second is not None
    assert 5.99 < ledger.epsilon(DELTA) <= 6
    assert reserve(folder, run="study", round=3, steps=12, budget=FAST) is None  # its own total is 4
    assert reserve(folder, run="third", round=1, steps=1, budget=FAST) is None  # not even a plan fits
    assert read_ledger(folder) == ledger


def test_a_site_that_lowers_its_budget_gets_a_new_plan(folder: Path) -> None:
    trained(folder, range(1, 2), steps=2, budget=FAST)
    lower = Budget(target_epsilon=2.0, target_delta=DELTA, sample_rate=1.0, steps=28)
    trained(folder, range(2, 3), steps=28, budget=lower)
    plans = [entry for entry in read_ledger(folder).entries if entry.kind == "plan"]
    assert [plan.target_epsilon for plan in plans] == [4.0, 2.0]
    assert 1.99 < read_ledger(folder).epsilon(DELTA) <= 2


def test_only_what_was_reserved_is_committed_once(folder: Path) -> None:
    reservation = reserve(folder, run="study", round=1, steps=4, budget=FAST)
    assert reservation is not None
    for steps in (-1, 5):
        with pytest.raises(PrivacyError, match="cannot be committed"):
            commit(folder, reservation, steps)
    with pytest.raises(PrivacyError, match="cannot be committed"):
        commit(folder, reservation.model_copy(update={"number": 7}), 4)
    commit(folder, reservation, 3)
    assert sum(one.steps for one in read_ledger(folder).history) == 3
    with pytest.raises(PrivacyError, match="cannot be committed"):
        commit(folder, reservation, 3)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x29, 0x80])
def test_a_changed_byte_in_any_line_is_refused_and_the_line_named(written: Path, flip: int) -> None:
    """0x20 turns 1e-05 into 1E-05, 0x29 a space into a tab: the same value in other bytes."""
    path, line = written / "ledger.jsonl", 1
    whole = path.read_bytes()
    for place, byte in enumerate(whole):
        path.write_bytes(whole[:place] + bytes([byte ^ flip]) + whole[place + 1 :])
        last = place == len(whole) - 1
        with pytest.raises(PrivacyError, match="has 5 lines but had 6" if last else f"damaged in line {line},"):
            read_ledger(written)
        line += byte == ord("\n")
    path.write_bytes(whole)
    assert len(read_ledger(written).entries) == 6


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [0], [], [0, 1, 3, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2, 4, 3, 5]])
def test_missing_and_moved_lines_are_refused(written: Path, kept: list[int]) -> None:
    path = written / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in kept))
    refused_everywhere(written)
    path.write_bytes(b"".join(lines))
    assert len(read_ledger(written).entries) == 6


def refused_everywhere(folder: Path) -> None:
    """By reading, reserving and opening, and nothing is written; as a privacy error, exit code 8."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for act in (
        lambda: read_ledger(folder),
        lambda: reserve(folder, run="study", round=9, steps=1, budget=FAST),
        lambda: open_ledger(folder, site="alba", num_patients=200),
    ):
        with pytest.raises(PrivacyError, match="restore the newest copy of its folder") as caught:
            act()
        assert caught.value.exit_code == 8
    assert {path.name: path.read_bytes() for path in folder.iterdir()} | {".lock": b""} == before | {".lock": b""}


def test_a_ledger_that_is_gone_is_refused_and_not_replaced(written: Path) -> None:
    (written / "ledger.jsonl").unlink()
    assert ledger_exists(written)
    refused_everywhere(written)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"lines": "many"}', b"\xff"])
def test_a_lost_or_damaged_head_is_refused(written: Path, content: bytes | None) -> None:
    """Else lines could be taken from the end unnoticed."""
    (written / "head.json").unlink() if content is None else (written / "head.json").write_bytes(content)
    refused_everywhere(written)


def test_a_torn_first_line_was_no_ledger(tmp_path: Path) -> None:
    open_ledger(tmp_path / "whole", site="alba", num_patients=200)
    line, torn = (tmp_path / "whole" / "ledger.jsonl").read_bytes(), tmp_path / "torn"
    torn.mkdir()
    for size in range(0, len(line), 7):
        (torn / "ledger.jsonl").write_bytes(line[:size])
        assert not ledger_exists(torn)
    assert open_ledger(torn, site="alba", num_patients=200).opening.num_patients == 200
    assert len(read_ledger(torn).entries) == 1


def test_a_known_ledger_keeps_its_number_and_its_patients(folder: Path) -> None:
    first = read_ledger(folder)
    assert open_ledger(folder, site="other", num_patients=5) == first
    assert len(first.opening.ledger) == 32


def test_a_full_disk_is_one_sentence_and_tears_nothing(folder: Path) -> None:
    trained(folder, range(1, 2), steps=2, budget=FAST)
    size = (folder / "ledger.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, hard))
    try:
        with pytest.raises(PrivacyError, match=r"cannot be written.*: free disk space"):
            reserve(folder, run="study", round=2, steps=2, budget=FAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "ledger.jsonl").stat().st_size == size, "what was written of the line is removed again"
    assert len(read_ledger(folder).entries) == 4
    trained(folder, range(2, 3), steps=2, budget=FAST)
    assert len(read_ledger(folder).entries) == 6


def test_nothing_of_a_patient_is_in_the_file(written: Path) -> None:
    entries = [json.loads(line)["entry"] for line in (written / "ledger.jsonl").read_text().splitlines()]
    words = {value for entry in entries for value in entry.values() if isinstance(value, str)}
    assert words == {"opening", "plan", "reservation", "commitment", "alba", "study", entries[0]["ledger"]}
    assert {key for entry in entries for key in entry} == {
        *("kind", "at", "ledger", "site", "num_patients", "published", "run", "round", "number"),
        *("target_epsilon", "target_delta", "noise_multiplier", "sample_rate", "steps", "mechanism"),
    }
    assert {path.name for path in written.iterdir()} == {"ledger.jsonl", "head.json", ".lock"}


def of_earlier_version(folder: Path) -> None:
    """Write the ledger again as version 1 wrote it: no line says its mechanism."""
    path, head, lines = folder / "ledger.jsonl", "", []
    for line in path.read_text().splitlines():
        entry = json.loads(line)["entry"]
        del entry["mechanism"]
        head = hashlib.sha256(f"{head}{json.dumps(entry, sort_keys=True)}".encode()).hexdigest()
        lines.append(json.dumps({"entry": entry, "hash": head}) + "\n")
    path.write_text("".join(lines))


@pytest.mark.attack("The ledger's epsilon is a bound", "read steps of the faulty mechanism")
def test_steps_of_the_faulty_mechanism_are_marked_and_never_added(written: Path) -> None:
    before = read_ledger(written)
    assert before.history
    assert not before.faulty
    of_earlier_version(written)
    old = read_ledger(written)
    assert [one.round for one in old.faulty] == [1, 2]
    assert old.history == ()
    assert old.epsilon(DELTA) == 0
    trained(written, range(3, 4), run="next", budget=FAST)
    after = read_ledger(written)
    assert [(one.mechanism, one.faulty) for one in after.reservations] == [(1, True), (1, True), (2, False)]
    assert sum(one.steps for one in after.history) == 12


def test_runs_without_privacy_are_written_down_once(written: Path) -> None:
    for runs in (["open"], ["open", "earlier"], []):
        note_unprotected(written, runs)
    assert read_ledger(written).unprotected == ("open", "earlier")
