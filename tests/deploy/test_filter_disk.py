"""An egress filter with a full disk: replies wait for space and then leave, and nothing is forgotten meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import MetricRecord, RecordDict

from cdtl_core.deploy.egress_filter import outbox
from cdtl_core.deploy.egress_filter.asks import Ask, Asks
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.log_check import check_log
from cdtl_core.deploy.records import egress_files
from cdtl_core.errors import CheckpointError
from tests.deploy.desk import BUNDLE, Desk, Node, honest

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",  # of Flower's SuperLink app
)


ASK = Ask(
    run_id=1, message_id="a" * 64, src_node_id=1, dst_node_id=2, group_id="1", message_type="train", created_at=0.0,
    ttl=3600.0,
)  # fmt: skip
SPY = RecordDict({"spy": MetricRecord({"age": 1.0})})


@contextmanager
def no_folder(path: Path) -> Iterator[None]:
    """Whatever is written into a folder fails, as on a full disk: a file stands in its place."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside) if path.exists() else aside.mkdir()
    path.write_text("")
    try:
        yield
    finally:
        path.unlink()
        aside.rename(path)


def of_round(reply: RecordDict, round: int) -> RecordDict:
    reply.metric_records["metrics"]["round"] = round
    return reply


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_BACKOFF_S", (0.02,) * 6)


@pytest.fixture
def failed_lines(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released each time the egress log could not take a line."""
    failed, write = threading.Semaphore(0), EgressLog.write

    def watched(self: EgressLog, kind: str, **fields: object) -> None:
        try:
            write(self, kind, **fields)
        except CheckpointError:
            failed.release()
            raise

    monkeypatch.setattr(EgressLog, "write", watched)
    return failed


@pytest.mark.attack("no reply is lost on a full disk", "the egress log cannot be written")
@pytest.mark.parametrize("answer", ["approved", "held back"])
def test_a_reply_waits_for_the_egress_log_and_leaves_once_there_is_room(
    answer: str,
    open_desk: tuple[Desk, Node],
    quick: None,
    failed_lines: threading.Semaphore,
) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, desk.order())
    message = node.take()
    assert message is not None
    with no_folder(desk.home / "logs"):
        node.answer(message, honest(approval.egress) if answer == "approved" else SPY)
        for _ in range(3):
            assert failed_lines.acquire(timeout=20)
        assert "push-messages" not in {name for name, _ in desk.coordinator.bodies}, "nothing leaves without its line"
    assert desk.coordinator.reply(run, asked).has_content() is (answer == "approved")
    desk.outcome()
    assert [line["verdict"] for line in desk.log() if line["kind"] == "reply"] == [answer]
    again = desk.coordinator.ask(run, node.id, desk.order(2), round="2")
    message = node.take()
    assert message is not None
    node.answer(message, of_round(honest(approval.egress), 2))
    assert desk.coordinator.reply(run, again).has_content(), "the outbox goes on"
    assert not check_log(egress_files(desk.home)).faults


@pytest.mark.attack("no reply is lost on a full disk", "open messages cannot be saved")
def test_messages_are_handed_over_and_answered_while_they_cannot_be_saved(
    open_desk: tuple[Desk, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    (desk.home / "asks.json").unlink(missing_ok=True)
    (desk.home / "asks.json").mkdir()  # a file cannot take a folder's name
    for round in ("1", "2"):
        asked = desk.coordinator.ask(run, node.id, desk.order(int(round)), round=round)
        message = node.take()
        assert message is not None
        node.answer(message, of_round(honest(approval.egress), int(round)))
        assert desk.coordinator.reply(run, asked).has_content()


def test_open_messages_are_saved_once_there_is_room(tmp_path: Path) -> None:
    home, now = tmp_path / "site", [0.0]
    asks = Asks(home, lambda: now[0])
    with no_folder(home):
        asks.add(ASK)
    asks.keep()
    later = Asks(home, lambda: now[0])
    later.recall()
    assert [ask.message_id for ask in later.waiting()] == ["a" * 64]
    assert asks.leave(asks.waiting()[0])
    another = Asks(home, lambda: now[0])
    another.recall()
    assert another.waiting(), "a message stays open on the disk until its reply has arrived"


def test_counts_and_late_lines_are_written_once_there_is_room(tmp_path: Path) -> None:
    log = EgressLog(tmp_path)
    log.count("push-object", 5)
    with no_folder(tmp_path / "logs"):
        for flush in (log.flush, log.flush):
            with pytest.raises(CheckpointError):
                flush()
        log.note("refused", why="first")
        log.note("refused", why="second")
        log.count("push-object", 7)
    log.flush()
    text = (tmp_path / "logs" / "egress.jsonl").read_text()
    assert '"bytes": 12' in text
    assert text.index("first") < text.index("second")
    assert not check_log(egress_files(tmp_path)).faults
