"""Each part that writes: the k-th call fails for every k, with both errors, once and from then on.

What a part did not say was done may be missing, and is done again; what it said was done is there.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from flwr.app import MetricRecord, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from starlette.types import Message

from cdtl_core.data.identity import load_key
from cdtl_core.deploy.access_log import AccessLog, LoggedApp
from cdtl_core.deploy.egress_filter import outbox as outboxes
from cdtl_core.deploy.egress_filter.asks import Ask, Asks
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.egress_filter.outbox import Outbox
from cdtl_core.deploy.egress_filter.replies import Replies
from cdtl_core.deploy.egress_filter.status import Status, read_status
from cdtl_core.deploy.egress_filter.upstream import Answer
from cdtl_core.deploy.log_check import check_log
from cdtl_core.deploy.pending import keep_pending, pending
from cdtl_core.deploy.records import access_files, approval_files, egress_files, record_approval
from cdtl_core.deploy.seen import SeenSites, last_seen
from cdtl_core.deploy.service import is_running, running_service
from cdtl_core.deploy.used import used_of
from cdtl_core.errors import CdtlError
from cdtl_core.federation.limits import Order
from cdtl_core.privacy.ledger import Budget, commit, open_ledger, reserve
from cdtl_core.privacy.ledger_file import read_ledger
from cdtl_core.report.egress_log import logged_lines
from cdtl_core.system.chained import ChainedLog, LogFiles
from cdtl_core.system.rotating import RotatingLog
from tests.faults.disk import Disk
from tests.faults.failing_calls import PROPERTY, Room, insisted, room

__all__ = ["room"]
pytestmark = [pytest.mark.slow, pytest.mark.ci]


@pytest.mark.attack(PROPERTY, "the k-th call of a chained log fails")
def test_a_chained_log_has_each_line_once_and_no_fault(room: Room) -> None:
    def files(folder: Path) -> LogFiles:
        return LogFiles(folder / "logs" / "egress.jsonl", folder / "heads" / "egress.json", 500, 2)

    def act(folder: Path, disk: Disk) -> None:
        log = ChainedLog(files(folder))
        for number in range(9):
            insisted(lambda number=number: log.append({"kind": "reply", "number": number}), disk)  # type: ignore[misc]
        disk.free()
        insisted(lambda: log.append({"kind": "end"}), disk)

    def check(folder: Path) -> None:
        found = check_log(files(folder))
        assert not found.faults
        assert found.head.seq == 10

    room.each(act, check)


@pytest.mark.attack(PROPERTY, "the k-th call of a privacy ledger fails")
def test_a_ledger_counts_every_step_that_may_have_been_trained(room: Room) -> None:
    budget = Budget(target_epsilon=8.0, target_delta=1e-5, sample_rate=1.0, steps=8)

    def act(folder: Path, disk: Disk) -> None:
        insisted(lambda: open_ledger(folder, site="alba", num_patients=200), disk)
        for round in (1, 2):
            granted: list[Any] = []

            def one(round: int = round, granted: list[Any] = granted) -> None:
                granted.append(reserve(folder, run="study", round=round, steps=4, budget=budget))

            insisted(one, disk)
            if granted[-1] is None:  # all is spent: an attempt that failed counts
                continue
            try:
                commit(folder, granted[-1], 4)
            except CdtlError:
                disk.free()  # a reservation without its commitment counts in full

    def check(folder: Path) -> None:
        ledger = read_ledger(folder)
        assert sum(one.steps for one in ledger.history) >= 8
        assert len({one.number for one in ledger.reservations}) == len(ledger.reservations)

    room.each(act, check)


@pytest.mark.attack(PROPERTY, "the k-th call of a site's filter fails")
def test_a_reply_leaves_once_after_its_line(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "_BACKOFF_S", (0.001,) * 6)

    def act(folder: Path, disk: Disk) -> None:
        asyncio.run(_replies(folder, disk))

    def check(folder: Path) -> None:
        assert not check_log(egress_files(folder)).faults
        lines = logged_lines(folder)
        outcomes = [line["outcome"] for line in lines if line["kind"] == "outcome"]
        assert outcomes == ["delivered"] * 3
        assert len({line["message"] for line in lines if line["kind"] == "reply"}) == 3, "a line may be there twice"
        assert sum(line["requests"]["push-messages"]["bytes"] for line in lines if line["kind"] == "traffic") == 30
        assert used_of(folder, "0" * 16).last_round == 3
        left = Asks(folder)
        left.recall()
        assert not left.waiting()

    room.each(act, check)


async def _replies(home: Path, disk: Disk) -> None:
    """Three messages are handed over and answered, as the filter does it; room comes after the first lost line."""
    log, asks = EgressLog(home), Asks(home)
    outbox = Outbox(Sender(log, home), asks, log, 10**9)  # type: ignore[arg-type]
    replies = Replies(home, NoRuns(), asks, outbox, log)  # type: ignore[arg-type]
    delivering = asyncio.create_task(outbox.run())
    for number in (1, 2, 3):
        ask = Ask(
            run_id=1, message_id=f"{number}" * 64, src_node_id=1, dst_node_id=2, group_id="1", message_type="train",
            created_at=time.time(), ttl=3600.0, approval="0" * 16,
            order=Order(kind="train", round=number, initial_weights_hash="a" * 64, digest="b" * 64),
        )  # fmt: skip
        asks.add(ask)
        await replies.answer(ask, RecordDict({"metrics": MetricRecord({"round": number})}))
        while asks.open():
            if disk.failed:
                disk.free()
            await asyncio.sleep(0)
    delivering.cancel()
    disk.free()
    asks.keep()
    log.flush()


class NoRuns:
    def get(self, run_id: int) -> None:
        return None


class Sender:
    """The coordinator: takes everything; nothing comes before its line stands in the log."""

    def __init__(self, log: EgressLog, home: Path) -> None:
        self._log, self._home = log, home

    async def send(self, name: str, body: bytes, *_: Any) -> Answer:
        self._log.count(name, 10)
        if name == "push-messages":
            message = PushMessagesRequest.FromString(body)
            told = message.messages_list[0].metadata.message_id
            assert told in (self._home / "logs" / "egress.jsonl").read_text()
            names = [message.message_object_trees[0].object_id]
            return Answer(200, PushMessagesResponse(objects_to_push=names, session_id="1").SerializeToString())
        PushObjectRequest.FromString(body)
        return Answer(200, PushObjectResponse(stored=True).SerializeToString())


@pytest.mark.attack(PROPERTY, "the k-th call of the access log fails")
def test_every_request_is_served_and_what_is_not_logged_is_counted(room: Room) -> None:
    served: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def requests(folder: Path, disk: Disk) -> None:
        log = AccessLog(folder)
        log.open()
        for _ in range(4):
            scope = {"type": "http", "client": ("10.0.0.1", 1), "path": "/health", "state": {}}
            answers: list[Message] = []

            async def send(message: Message, answers: list[Message] = answers) -> None:
                answers.append(message)

            await LoggedApp(app, log, 5.0)(scope, None, send)  # type: ignore[arg-type]
            served.append(answers[0]["status"])
            disk.free()
        log.write(client="10.0.0.1", status=200)
        disk.free()
        log.write(client="10.0.0.1", status=200)
        disk.free()
        log.close()

    def act(folder: Path, disk: Disk) -> None:
        served.clear()
        asyncio.run(requests(folder, disk))

    def check(folder: Path) -> None:
        found = check_log(access_files(folder))
        assert not found.faults
        text = (folder / "logs" / "access.log").read_text()
        lost = sum(int(part.split(",")[0]) for part in text.split('"lost": ')[1:])
        assert served == [200] * 4
        assert text.count('"status"') + lost == 6

    room.each(act, check)


@pytest.mark.attack(PROPERTY, "the k-th call of the log of approvals fails")
def test_no_decision_is_without_a_line(room: Room) -> None:
    def act(folder: Path, disk: Disk) -> None:
        for kind in ("approved", "withdrawn"):
            insisted(lambda kind=kind: record_approval(folder, kind, "0" * 16), disk)  # type: ignore[misc]
        disk.free()
        insisted(lambda: record_approval(folder, "left", ""), disk)

    def check(folder: Path) -> None:
        found = check_log(approval_files(folder))
        assert not found.faults
        assert found.lines in (3, 4), "a line may be there twice, if the disk did not let it be taken back"

    room.each(act, check)


@pytest.mark.attack(PROPERTY, "the k-th call of an egress filter's other files fails")
def test_what_a_filter_keeps_beside_its_log_is_whole_or_absent(room: Room) -> None:
    def act(folder: Path, disk: Disk) -> None:
        insisted(lambda: keep_pending(folder, b"code", {"name": "study"}, run_id=1, reason="none"), disk)
        insisted(lambda: Status(folder).write(force=True), disk)
        insisted(lambda: load_key(folder), disk)

    def check(folder: Path) -> None:
        assert len(pending(folder)) == 1
        assert read_status(folder)["connected"] is False
        assert len(load_key(folder)) == 32

    room.each(act, check)


@pytest.mark.attack(PROPERTY, "the k-th call of a service's start fails")
def test_a_service_starts_or_says_why(
    room: Room, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of its own for temporary files: what other processes leave in the common one is removed at a start, once.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))

    def act(folder: Path, disk: Disk) -> None:
        with running_service(folder) as (_, scratch):
            assert scratch.is_dir()
            assert is_running(folder)

    def check(folder: Path) -> None:
        with running_service(folder):
            assert is_running(folder)

    room.each(act, check)


@pytest.mark.attack(PROPERTY, "the k-th call of seen.json fails")
def test_who_was_seen_is_written_once_there_is_room(room: Room) -> None:
    async def visits(folder: Path, disk: Disk) -> None:
        seen = SeenSites(folder)
        for site in ("north", "south"):
            seen.note(site)
            await asyncio.to_thread(seen._write)
            disk.free()
        await asyncio.to_thread(seen._write)

    def check(folder: Path) -> None:
        assert set(last_seen(folder)) == {"north", "south"}

    room.each(lambda folder, disk: asyncio.run(visits(folder, disk)), check)


@pytest.mark.attack(PROPERTY, "the k-th call of a program's log fails")
def test_a_programs_log_says_what_is_missing(room: Room) -> None:
    lines = [b"%d " % number + b"x" * 60 + b"\n" for number in range(12)]

    def act(folder: Path, disk: Disk) -> None:
        log = RotatingLog(folder / "logs" / "gate.log", max_bytes=300, kept=9)
        for number, line in enumerate(lines):
            log.write(line)
            disk.free() if number % 3 == 2 else None
        disk.free()
        log.write(b"end\n")
        disk.free()
        log.close()

    def check(folder: Path) -> None:
        text = b"".join(path.read_bytes() for path in sorted((folder / "logs").iterdir()))
        lost = sum(int(part.split(b" ")[0]) for part in text.split(b"\n[")[1:])
        assert text.count(b"x") + lost >= 60 * len(lines)

    room.each(act, check)
