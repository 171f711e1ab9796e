"""The filter enforces the limits of an approval: each attack is answered without the site's code."""

import hashlib
import json
from contextlib import ExitStack
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from cdtl_core.config.settings import save_toml
from cdtl_core.deploy.egress_filter.outbox import MOST_WAITING, Outbox
from cdtl_core.deploy.egress_filter.refusals import NO_ROOM, NOT_APPROVED, OVER, UNREADABLE
from cdtl_core.deploy.used import used_of
from cdtl_core.federation.limits import MOST_ANSWERS
from tests.deploy.desk import BUNDLE, SECRET, Desk, Node, error_of, honest

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",  # of Flower's SuperLink app
)
FINAL = RecordDict({"final": MetricRecord({"test_auroc": 0.5, "test_auroc_low": 0.25, "test_auroc_high": 0.75})})
FINAL["final"]["chosen"] = 1  # type: ignore[index]


def ask(
    desk: Desk, node: Node, order: RecordDict, *, kind: str = "train", run: int = 0, group: str = ""
) -> Message | str:
    """Ask as the coordinator does: the message that the SuperNode got, or the id of one that it did not get."""
    round = group or str(order["order"]["round"])  # type: ignore[index]
    asked = desk.coordinator.ask(run, node.id, order, kind=kind, round=round)
    message = node.take()
    return asked if message is None else message


def played(desk: Desk, node: Node, run: int, *orders: RecordDict, kind: str = "train") -> None:
    """Orders that the site takes and answers."""
    for order in orders:
        message = ask(desk, node, order, run=run, kind=kind)
        assert isinstance(message, Message)
        update = honest(desk.egress)
        update["metrics"]["round"] = order["order"]["round"]  # type: ignore[index]
        node.answer(message, FINAL if kind == "evaluate" else update)
        assert desk.coordinator.reply(run, message.metadata.message_id).has_content()


def refused(desk: Desk, node: Node, run: int, order: RecordDict, **more: Any) -> tuple[int, str]:
    """Return the filter's answer to a refused order."""
    asked = ask(desk, node, order, run=run, **more)
    assert isinstance(asked, str), "the site got the message"
    return error_of(desk.coordinator.reply(run, asked))


@pytest.mark.attack("An approval has limits", "round 777 of 3, through the filter")
@pytest.mark.parametrize("round", [777, 4])
def test_a_round_beyond_the_run_never_reaches_the_site(open_desk: tuple[Desk, Node], round: int) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    played(desk, node, run, desk.order(1))
    assert refused(desk, node, run, desk.order(round)) == OVER["round"]
    played(desk, node, run, desk.order(2))


@pytest.mark.attack("An approval has limits", "second final evaluation, through the filter")
def test_a_second_final_evaluation_never_reaches_the_site(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    played(desk, node, run, desk.order(3))
    played(desk, node, run, desk.order(4), kind="evaluate")
    assert refused(desk, node, run, desk.order(4, offset=1), kind="evaluate") == OVER["evaluation"]


def test_the_same_final_evaluation_after_a_crash_is_answered_from_what_was_kept(desk: Desk) -> None:
    approval = desk.approve()
    with desk.filter(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        played(desk, node, run, desk.order(3))
        played(desk, node, run, desk.order(4), kind="evaluate")
    resumed = desk.coordinator.start_run(BUNDLE, desk.settings)
    with desk.filter(), desk.node() as node:
        asked = ask(desk, node, desk.order(4), kind="evaluate", run=resumed)
        assert isinstance(asked, str)
        assert desk.coordinator.reply(resumed, asked).content["final"] == FINAL["final"]
    assert used_of(desk.home, approval.id).evaluations[0].answers == 2


@pytest.mark.attack("An approval has limits", "other initial weights, through the filter")
@pytest.mark.parametrize("weights", ["b" * 64, "../../models/other/model", "/etc/passwd"])
def test_other_initial_weights_never_reach_the_site(open_desk: tuple[Desk, Node], weights: str) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    told = refused(desk, node, run, desk.order(initial_weights_hash=weights))
    assert told == (OVER["weights"] if weights == "b" * 64 else UNREADABLE)


def test_a_site_that_accepts_one_common_start_refuses_runs_from_another(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    desk.approve()
    tree = desk.site.model_dump(mode="json", exclude_none=True)
    save_toml(desk.config.settings, {**tree, "publish": {"initial_weights_hash": "b" * 64}})
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    assert refused(desk, node, run, desk.order()) == NOT_APPROVED


@pytest.mark.attack("An approval has limits", "run played again in a new Flower run")
def test_a_run_that_is_played_again_never_reaches_the_site_and_a_resume_does(desk: Desk) -> None:
    approval = desk.approve()
    with desk.filter(), desk.node() as node:
        first = desk.coordinator.start_run(BUNDLE, desk.settings)
        played(desk, node, first, desk.order(1), desk.order(2), desk.order(3))
    with desk.filter(), desk.node() as node:  # filter, node and coordinator are all new
        resumed = desk.coordinator.start_run(BUNDLE, desk.settings)
        played(desk, node, resumed, desk.order(3))
        again = desk.coordinator.start_run(BUNDLE, desk.settings)
        assert refused(desk, node, again, desk.order(1)) == OVER["run"]
    assert used_of(desk.home, approval.id).run == 1


@pytest.mark.attack("An approval has limits", "the same round again and again, through the filter")
def test_the_answers_to_one_round_are_bounded_and_so_are_its_bytes(open_desk: tuple[Desk, Node], tries: Any) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    for _ in range(MOST_ANSWERS):
        played(desk, node, run, desk.order(2))
    assert refused(desk, node, run, desk.order(2)) == OVER["round"]
    lines = [line for line in desk.log() if line["kind"] == "reply" and line["verdict"] == "approved"]
    assert sum(line["bytes"] for line in lines) <= MOST_ANSWERS * 2 * desk.egress.replies["train"].total_bytes
    tries.add(MOST_ANSWERS + 1)


def test_a_kill_of_the_filter_loses_no_count(desk: Desk) -> None:
    approval = desk.approve()
    with ExitStack() as nodes, desk.process() as process:
        node = nodes.enter_context(desk.node())
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        assert isinstance(ask(desk, node, desk.order(3), run=run), Message)
        process.kill()
    assert used_of(desk.home, approval.id).last_round == 3
    with desk.filter(), desk.node() as node:
        assert refused(desk, node, run, desk.order(1)) == OVER["run"]


@pytest.mark.attack("An approval has limits", "the record of what is used is damaged")
def test_a_damaged_record_lets_nothing_pass(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    played(desk, node, run, desk.order(1))
    (desk.home / "used" / f"{approval.id}.json").write_text("{")
    assert refused(desk, node, run, desk.order(2)) == UNREADABLE


def lying(desk: Desk, run: int, node: Node, shown: dict[str, Any]) -> str:
    """Store a message whose announcement says something else than its content."""
    task = desk.coordinator.state.get_run_info(run_ids=[run])[0].primary_task_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task, run, 1
    message = Message(desk.order(777), node.id, "evaluate", ttl=600, group_id="777")
    message.metadata.__dict__["_message_id"] = message.object_id
    objects, tree = get_all_nested_objects(message), get_object_tree(message)
    parts = {name: part.deflate() for name, part in objects.items()}
    for name, value in shown.items():
        message.metadata.__dict__[f"_{name}"] = value
    session = desk.coordinator.state.start_session(run)
    stored, missing = desk.coordinator.state.store_message_and_object_tree(message, tree, session)
    assert stored
    for name in missing:
        assert desk.coordinator.state.store_object(run, session, name, parts[name])
    return str(message.metadata.message_id)


@pytest.mark.attack("What is judged is what is handed over", "a message announced as another")
@pytest.mark.parametrize("shown", [{"message_type": "train", "group_id": "1"}, {"message_type": "query.describe"}])
def test_a_message_that_is_announced_as_another_never_reaches_the_site(
    open_desk: tuple[Desk, Node], shown: dict[str, Any]
) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = lying(desk, run, node, shown)
    assert node.take() is None
    assert error_of(desk.coordinator.reply(run, asked)) == UNREADABLE


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"order": ConfigRecord({"round": True})})])
def test_an_order_that_cannot_be_read_never_reaches_the_site(open_desk: tuple[Desk, Node], content: RecordDict) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    assert refused(desk, node, run, content, group="1") == UNREADABLE


@pytest.mark.attack("Nothing unasked leaves a site", "objects, runs and receipts that no message named")
def test_what_no_message_named_is_not_asked_for(open_desk: tuple[Desk, Node], tries: Any) -> None:
    desk, node = open_desk
    hidden, before = hashlib.sha256(SECRET.encode()).hexdigest(), len(desk.coordinator.bodies)
    proto = ProtoNode(node_id=node.id)
    requests = {
        "pull-object": PullObjectRequest(node=proto, run_id=7, object_id=hidden),
        "confirm-message-received": ConfirmMessageReceivedRequest(node=proto, run_id=7, message_object_id=hidden),
        "get-run": GetRunRequest(node=proto, run_id=int(hidden[:15], 16)),
    }
    with desk.bare() as client:
        for name, request in requests.items():
            assert client.post(f"/v1/fleet/{name}", content=request.SerializeToString()).status_code == 400  # type: ignore[attr-defined]
            tries.add()
    sent = [name for name, _ in desk.coordinator.bodies[before:] if name in requests]
    assert sent == []


def test_without_room_for_its_reply_a_message_is_not_worked_on(desk: Desk) -> None:
    desk.approve()
    save_toml(desk.config.settings, {**desk.site.model_dump(mode="json", exclude_none=True), "room_mb": 1})
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    rule = desk.egress.replies["train"]
    large = desk.egress.replies | {"train": rule.model_copy(update={"total_bytes": 2_000_000})}
    path = next((desk.home / "approvals").glob("*.json"))
    content = json.loads(path.read_text())
    content["egress"]["replies"]["train"]["total_bytes"] = large["train"].total_bytes
    path.write_text(json.dumps(content))
    with desk.filter(), desk.node() as node:
        assert refused(desk, node, run, desk.order()) == NO_ROOM
    assert any("room_mb in site.toml is 1" in line.get("why", "") for line in desk.log())


def test_replies_that_wait_are_bounded_in_number() -> None:
    outbox = Outbox(None, None, None, room=1_000_000)  # type: ignore[arg-type]
    assert not outbox.crowded
    outbox._waiting = dict.fromkeys(range(MOST_WAITING), 10)
    assert outbox.crowded
    assert outbox.full(1_000_000).startswith("32 replies of 0 MB wait")
