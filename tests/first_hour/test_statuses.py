"""What commands say while they work and when they are stopped, as a user sees it."""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cdtl_core.cli.follow import print_ending
from cdtl_core.config.folders import RunFolder
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.egress_filter.refusals import NOT_APPROVED
from cdtl_core.deploy.egress_filter.status import Status
from cdtl_core.deploy.participation import ConnectionLog
from cdtl_core.deploy.rehearsal import _step, _Steps
from cdtl_core.deploy.run_keeper import RoundLog
from cdtl_core.deploy.sent import SentReplies
from cdtl_core.deploy.service import Troubles, running_service
from cdtl_core.deploy.unit import Unit
from cdtl_core.errors import FederationError
from cdtl_core.federation.journal import Ending
from cdtl_core.system.processes import ProcessGroup
from cdtl_core.system.progress import listen
from tests.conftest import Cdtl
from tests.first_hour.test_server_run import SITES, join
from tests.stub import TINY_SETTINGS


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT interrupts as on a terminal; a test run in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_port_in_use_ends_the_start_at_once(cdtl: Cdtl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ("--name", "localhost", "--host", "127.0.0.1", "--port", port)
        assert cdtl("server", "init", "office", *options).code == 0
        began = time.monotonic()
        done = cdtl("server", "start", "office")
    assert time.monotonic() - began < 5
    assert done.code == 3
    assert f"port {port} of 127.0.0.1 cannot be opened (Address already in use)" in done.err
    assert "again" not in done.err
    status = cdtl("server", "status", "office")
    assert (status.code, "not running" in status.out) == (7, True)


@pytest.mark.parametrize(("part", "stored"), [("filter", True), ("node", False)])
def test_only_the_part_that_reaches_the_coordinator_stores_its_address(
    cdtl: Cdtl, monkeypatch: pytest.MonkeyPatch, part: str, stored: bool
) -> None:
    """Both parts may start at the same moment with the same options, and one file has one writer."""
    monkeypatch.setattr("cdtl_core.deploy.participation.serve_site", lambda *_: None)
    Path("ca.crt").write_text("-----BEGIN CERTIFICATE-----")
    Path("alba").mkdir()
    assert cdtl("site", "start", "alba", "--part", part, "--server", "localhost:8443", "--ca", "ca.crt").code == 0
    assert Path("alba/coordinator.json").exists() == stored


def test_a_url_is_no_name_of_a_server(cdtl: Cdtl, tmp_path: Path) -> None:
    done = cdtl("server", "init", "office", "--name", "https://federation.example.org:8443")
    assert done.code == 3
    assert "federation.example.org" in done.err
    assert not (tmp_path / "office").exists()


def test_status_names_the_part_that_does_not_run(cdtl: Cdtl) -> None:
    assert cdtl("server", "init", "office", "--name", "localhost").code == 0

    def fail() -> ProcessGroup:
        raise FederationError("the SuperLink did not answer: read superlink.log.")

    with running_service(Path("office")):
        unit, troubles = Unit("SuperLink", fail, pause_s=1.0), Troubles(Path("office"))
        assert "does not run" not in cdtl("server", "status", "office").out
        unit.keep()
        troubles.note(SuperLink=unit.trouble, gateway="")
        told = cdtl("server", "status", "office").out
        assert "its SuperLink does not run: the SuperLink did not answer: read superlink.log. Trying again" in told
        troubles.note(SuperLink="")
        assert "does not run" not in cdtl("server", "status", "office").out


def test_the_coordinators_log_has_a_line_for_each_round(
    cdtl: Cdtl, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, log = tmp_path / "study", RoundLog()
    run.mkdir()
    (run / "progress.json").write_text('{"rounds": 2}')
    caplog.set_level(logging.INFO, "cdtl.deploy")
    first = (
        '{"method": "cdtl", "round": 1, "sites": {"alba": {"val_auroc": 0.5}}, "absent": ["como"], "seconds": 3.0}\n'
    )
    log.say(run)
    (run / "rounds.jsonl").write_text(first)
    log.say(run)
    log.say(run)
    end = '{"method": "cdtl", "round": 2, "finish": {"alba": {"test_auroc": 0.75, "chosen": "own"}}, "seconds": 1.0}\n'
    (run / "rounds.jsonl").write_text(first + end)
    os.utime(run / "rounds.jsonl", ns=(1, 1))
    log.say(run)
    assert caplog.messages == [
        "study: round 1 of 2 in 3 s; validation AUROC of what was received: alba 0.500; without como: not connected",
        "study: final evaluation in 1 s; test AUROC: alba 0.750 (own)",
    ]


def test_the_sites_log_has_a_line_for_each_reply_that_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = EgressLog(tmp_path)
    log.write("reply", run="earlier", type="train", round="7", bytes=1, verdict="approved")
    sent = SentReplies(tmp_path)
    caplog.set_level(logging.INFO, "cdtl.deploy")
    log.write("reply", run="study", type="train", round="1", bytes=1_234_567, verdict="approved")
    log.count("push-messages", 4321)
    log.flush()
    sent.say()
    sent.say()
    for _ in range(2):
        log.write("reply", run="study", type="train", round="2", bytes=9, verdict="held back", why="a tensor too many")
    log.write("reply", run="study", type="evaluate", round="3", bytes=900, verdict="approved")
    sent.say()
    assert caplog.messages == [
        "study: round 1 trained, update of 1.2 MB sent",
        "study: held back, no update was sent: a tensor too many",
        f"study: finished; the model is in {tmp_path / 'models' / 'study-cdtl'}, and cdtl report {tmp_path} shows it",
    ]


def test_simulate_into_a_file_prints_a_line_for_each_round_and_one_at_the_end(cdtl: Cdtl) -> None:
    Path("tiny.toml").write_text(TINY_SETTINGS + SITES)
    done = cdtl("simulate", "tiny.toml", "--out", "run")
    lines = [line for line in done.out.splitlines() if line.startswith(("FedBN", "CDTL"))]
    begins = ["FedBN: round 1 of 2", "FedBN: round 2 of 2", "FedBN, 2 rounds: final evaluation in"]
    begins += [text.replace("FedBN", "CDTL") for text in begins]
    assert [line[: len(begin)] for line, begin in zip(lines, begins, strict=True)] == begins
    again = cdtl("simulate", "--resume", "run", "--json")
    assert again.out.startswith("{")
    assert again.err == ""


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_says_how_to_resume_a_simulation(cdtl: Cdtl) -> None:
    Path("tiny.toml").write_text(TINY_SETTINGS + SITES)

    def interrupt(fields: Mapping[str, object]) -> None:
        if fields.get("round") == 2:
            signal.raise_signal(signal.SIGINT)

    with listen(interrupt):
        stopped = cdtl("simulate", "tiny.toml", "--out", "run", "--set", "methods=cdtl")
    assert stopped.code == 130
    assert stopped.err.strip() == "Interrupted; continue with: cdtl simulate --resume run"
    resumed = cdtl(*stopped.err.rpartition("cdtl ")[2].split())
    assert resumed.code == 0, resumed.err
    assert "round 1 of 2" not in resumed.out  # it was printed before

    with listen(lambda _: signal.raise_signal(signal.SIGINT)):
        early = cdtl("simulate", "tiny.toml", "--out", "other")
    assert (early.code, early.err.strip()) == (130, "Interrupted; nothing is kept")
    assert not Path("other").exists()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_of_any_command_ends_it_without_a_word(cdtl: Cdtl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdtl_core.config.reference.reference_page", lambda: signal.raise_signal(signal.SIGINT))
    done = cdtl("config", "reference")
    assert (done.code, done.out, done.err) == (130, "", "")


def interrupt_in(function: str) -> None:
    """Press Ctrl-C once the main thread is in a function."""
    main, pause = threading.main_thread().ident, threading.Event()
    while function not in {frame.name for frame in traceback.extract_stack(sys._current_frames()[main or 0])}:
        pause.wait(0.05)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Ctrl-C between an open file and its `with`
def test_ctrl_c_of_server_run_leaves_the_run_to_the_coordinator(cdtl: Cdtl, tmp_path: Path) -> None:
    assert cdtl("server", "init", "office", "--name", "localhost").code == 0
    join(cdtl, "alba", "ultrasound")
    Path("study.toml").write_text(TINY_SETTINGS)
    with running_service(tmp_path / "office"):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # this process plays the other terminal too
        threading.Thread(target=interrupt_in, args=("follow_run",)).start()
        done = cdtl("server", "run", "office", "study.toml", "--yes")
    assert done.code == 130
    for words in ("The run continues", "cdtl server run office study.toml", "cdtl server stop office --run tiny"):
        assert words in done.err


def test_site_check_without_a_coordinator_answers_before_it_reads_images(cdtl: Cdtl) -> None:
    Path("site").mkdir()
    Path("site/site.toml").write_text('site = "north"\nmodality = "ultrasound"\ndata.phantom = { patients = 40 }\n')
    done = cdtl("site", "check", "site")
    assert done.code == 7
    assert "this site has no coordinator yet: give --server HOST:PORT and --ca ca.crt" in done.out
    assert "images: not checked yet" in done.out
    assert not Path("site/cache").exists()
    assert done.err.splitlines()[:2] == ["key ...", "coordinator ..."]


def test_a_site_that_starts_is_connecting_until_its_first_attempt_had_its_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    caplog.set_level(logging.INFO, "cdtl.deploy")
    before = Status(tmp_path, lambda: 90.0)
    before.lost("of an earlier start")
    before.write(force=True)
    log, filter = ConnectionLog(tmp_path, lambda: now), Status(tmp_path, lambda: now)
    log.say()
    filter.lost("the coordinator cannot be reached")
    filter.write(force=True)
    now = 114.0
    log.say()
    assert caplog.messages == []
    now = 116.0
    log.say()
    filter.contact(200)
    filter.write(force=True)
    log.say()
    filter.lost("the line broke")
    filter.write(force=True)
    log.say()
    assert caplog.messages == [
        "not connected to the coordinator: the coordinator cannot be reached",
        "connected",
        "not connected to the coordinator: the line broke",
    ]


def test_status_says_connecting_after_the_start(cdtl: Cdtl, tmp_path: Path) -> None:
    join_alone = ("--name", "alba", "--modality", "ultrasound", "--phantom", "16")
    assert cdtl("site", "init", "alba", *join_alone).code == 0
    (tmp_path / "alba" / "coordinator.json").write_text('{"host": "localhost", "port": 1, "ca": "ca.crt"}')
    with running_service(tmp_path / "alba"):
        young = cdtl("site", "status", "alba").out
    assert "Coordinator localhost:1: connecting" in young


def test_a_run_that_waits_for_approval_is_no_error_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, sent = EgressLog(tmp_path), SentReplies(tmp_path)
    caplog.set_level(logging.INFO, "cdtl.deploy")
    why = "the bundle 0123456789ab is not approved at this site: approve or ignore it."
    log.write("reply", run="study", type="query", round="0", verdict="error", why=why, error=list(NOT_APPROVED))
    sent.say()
    assert caplog.messages == [f"study: its code does not run here: {why}"]


def test_the_rehearsal_says_how_long_it_has_taken() -> None:
    now, told = 0.0, list[str]()
    steps = _Steps(told.append, lambda: now)
    for second, step in {1: "start ...", 9: "round 1 ...", 20: "round 1 ...", 25: "round 1 ...", 26: "end"}.items():
        now = float(second)
        steps.say(step)
    assert told == ["start ...", "round 1 ...", "round 1 ... 16 s so far", "end"]


def test_the_rehearsal_names_the_round_that_runs_and_counts_no_final_evaluation(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    told = [_step(tmp_path)]
    for progress in ({"pid": 1}, {"round": 1}):
        run.progress.write_text(json.dumps(progress))
        told.append(_step(tmp_path))
    for line in (*({"method": "cdtl", "round": n, "sites": {}} for n in (1, 2)), {"round": 2, "finish": {}}):
        with open(run.journal, "a") as file:
            file.write(json.dumps(line) + "\n")
        told.append(_step(tmp_path))
    assert [step.removeprefix("rehearsal: ").removesuffix(" ...") for step in told] == [
        "the coordinator starts",
        "the site starts and opens its images",
        "round 1 of 2 running",
        "round 2 of 2 running",
        "rounds 1 to 2 done, final evaluation running",
        "final evaluation done",
    ]


def test_the_results_at_the_coordinator_say_that_its_patients_are_the_enrolled_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_ending(Ending("cdtl", 2, 3.0, {"alba": {"test_auroc": 0.75, "chosen": "own"}}, {}), {"alba": "~40"})
    head = next(line for line in capsys.readouterr().out.splitlines() if "AUROC" in line)
    assert head.split("  ")[-1].strip() == "model"
    assert "enrolled patients" in head
