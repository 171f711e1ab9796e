"""A site acts only for itself: attacks of an admitted site through the public port."""

import math
import random
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_utils import iterate_object_tree  # type: ignore[attr-defined]

from tests.deploy.border import BUNDLE, LIMIT, SIZE, Border, built, objects_of, update
from tests.tables import Tries

OWN = "a site speaks only for itself"
QUOTA = "bytes per site and round are bounded"
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",  # of Flower's SuperLink app
)


def test_a_message_is_answered_through_the_gateway_and_once(border: Border) -> None:
    asked, north = border.ask(border.north), border.north
    message = north.take()
    run = border.run
    own = Node(node_id=north.node)
    assert north.post("get-run", GetRunRequest(node=own, run_id=run)).status_code == 200
    name = border.link.state.get_run_info(run_ids=[run])[0].fab_hash
    fab = north.post("get-fab", GetFabRequest(node=own, hash_str=name, run_id=run))
    assert GetFabResponse.FromString(fab.content).fab.content == BUNDLE
    assert north.push(north.reply_to(message, update()))
    reply = border.link.reply(run, asked)
    assert reply.content["delta"]["weight"].numpy().tobytes() == update()["delta"]["weight"].numpy().tobytes()  # type: ignore[index,union-attr]
    before = border.stored
    assert not north.push(north.reply_to(message, update(seed=2)))
    assert border.stored == before
    assert border.door.refused("answered already")["site"] == "north"


@pytest.mark.attack(OWN, "instructs another site")
def test_a_site_cannot_instruct_another(border: Border, tries: Tries) -> None:
    order = RecordDict({"order": ConfigRecord({"round": 1})})
    asked = border.ask(border.north)
    border.north.take()
    before = border.stored
    for source in (1, border.north.node):
        for reply_to in ("", asked):
            fields = {"run_id": border.run, "message_id": "", "src_node_id": source, "dst_node_id": border.south.node}
            rest = {"group_id": "1", "created_at": 2e9, "ttl": 3600.0, "message_type": "train"}
            evil = built(order, {**fields, **rest, "reply_to_message_id": reply_to})
            assert border.north.announce(evil).status_code == 403
            tries.add()
    assert border.stored == before
    assert not border.south.pull().messages_list


@pytest.mark.attack(OWN, "answers in another's name")
def test_a_site_cannot_answer_for_another(border: Border, tries: Tries) -> None:
    border.ask(border.south)
    message = border.south.take()
    before = border.stored
    for source in (border.south.node, border.north.node):
        evil = border.north.reply_to(message, update(), src_node_id=source)
        assert border.north.announce(evil).status_code == 403
        assert border.north.announce(evil, node=Node(node_id=border.south.node)).status_code == 401
        tries.add(2)
    assert border.stored == before
    assert border.south.push(border.south.reply_to(message, update()))


@pytest.mark.attack(OWN, "acts as another node")
def test_a_site_cannot_act_as_another_node(border: Border, tries: Tries) -> None:
    border.ask(border.south)
    north, other = border.north, Node(node_id=border.south.node)
    requests: list[tuple[str, Any, int]] = [
        ("pull-messages", PullMessagesRequest(node=other), 401),
        ("pull-messages", PullMessagesRequest(), 401),
        ("send-node-heartbeat", SendNodeHeartbeatRequest(node=other, heartbeat_interval=30), 401),
        ("deactivate-node", DeactivateNodeRequest(node_id=other.node_id), 401),
        ("get-run", GetRunRequest(node=other, run_id=border.run), 401),
        ("activate-node", ActivateNodeRequest(public_key=border.key_of("south"), heartbeat_interval=30), 401),
        ("activate-node", ActivateNodeRequest(public_key=border.key_of("north"), heartbeat_interval=1e300), 400),
        ("send-node-heartbeat", SendNodeHeartbeatRequest(node=Node(node_id=north.node), heartbeat_interval=1800), 400),
    ]
    for route, request, status in requests:
        assert north.post(route, request).status_code == status, route
        tries.add()
    assert len(border.south.pull().messages_list) == 1


@pytest.mark.attack(OWN, "reads or deletes another's message")
def test_a_site_cannot_read_or_delete_anothers_message(border: Border, tries: Tries) -> None:
    border.ask(border.north)
    border.north.take()
    asked = border.ask(border.south)
    tree = border.link.state.object_store.get_object_tree(asked)
    before = border.stored
    for part in iterate_object_tree(tree):
        assert border.north.pull_object(border.run, part.object_id).status_code == 403
        assert border.north.confirm(border.run, part.object_id).status_code == 403
        tries.add(2)
    assert border.stored == before
    border.south.take()


@pytest.mark.attack(OWN, "asks for a run it is not in")
def test_a_site_learns_nothing_of_runs_it_was_not_asked_in(border: Border) -> None:
    run, own = border.start_run("other", ("south",)), Node(node_id=border.north.node)
    name = border.link.state.get_run_info(run_ids=[run])[0].fab_hash
    assert border.north.post("get-run", GetRunRequest(node=own, run_id=run)).status_code == 403
    assert border.north.post("get-fab", GetFabRequest(node=own, hash_str=name, run_id=run)).status_code == 403


@pytest.mark.attack(OWN, "replies that do not fit their message")
def test_a_reply_must_fit_its_message(border: Border, tries: Tries) -> None:
    border.ask(border.north)
    north, message = border.north, border.north.take()
    before = border.stored
    right = north.reply_to(message, update())
    wrong: list[dict[str, Any]] = [
        {"dst_node_id": border.south.node},
        {"dst_node_id": north.node},
        {"run_id": border.start_run("other", ("north",))},
        {"group_id": "777"},
        {"message_type": "evaluate"},
        {"ttl": 3e8},
        {"ttl": math.nan},
        {"ttl": math.inf},
        {"ttl": -1.0},
        {"created_at": math.nan},
        {"created_at": -1e18},
        {"src_task_id": 7},
        {"reply_to_message_id": "0" * 64},
        {"reply_to_message_id": ""},
    ]
    for fields in wrong:
        assert north.announce(north.reply_to(message, update(), **fields)).status_code == 403, fields
        tries.add()
    inline, long = message_to_proto(right), message_to_proto(north.reply_to(message, Error(1, "x" * 5000)))
    bodies: list[dict[str, Any]] = [
        {"messages_list": [inline]},
        {"messages_list": [long]},
        {"messages_list": []},
        {"messages_list": [inline, inline]},
        {"clientapp_runtime_list": [math.nan]},
        {"clientapp_runtime_list": [1.0, 2.0]},
        {"message_object_trees": [ObjectTree(object_id="../../etc/passwd")]},
        {"message_object_trees": [ObjectTree(object_id="0" * 64)]},
    ]
    for fields in bodies:
        assert north.announce(right, **fields).status_code in (400, 403), fields
        tries.add()
    assert border.stored == before
    assert north.push(right)


@pytest.mark.attack(QUOTA, "sends more than the egress list")
def test_a_reply_is_no_larger_than_the_egress_list(border: Border, tries: Tries) -> None:
    border.ask(border.north)
    north, message = border.north, border.north.take()
    large = north.reply_to(message, update(SIZE + LIMIT))
    told = PushMessagesResponse.FromString(north.announce(large).content)
    answers = [
        north.push_object(border.run, told.session_id, objects_of(large)[name]).status_code
        for name in told.objects_to_push
    ]
    assert 413 in answers
    assert "egress list" in border.door.refused("more bytes")["refused"]
    stored = sum(len(border.link.state.object_store.get(name) or b"") for name in objects_of(large))
    assert stored <= LIMIT
    before = border.stored
    many = ObjectTree(object_id=large.metadata.message_id)
    many.children.extend(ObjectTree(object_id=f"{number:064x}") for number in range(5000))
    assert north.announce(large, message_object_trees=[many]).status_code == 403
    assert north.push_object(border.run, told.session_id, b"never announced").status_code == 200  # not stored
    wrong = north.push_object(border.run, told.session_id, b"another content", told.objects_to_push[0])
    assert wrong.status_code == 400
    assert border.stored == before
    tries.add(len(answers) + 3)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.attack(QUOTA, "fills the SuperLink's database")
def test_unrequested_messages_take_no_space(border: Border, tries: Tries) -> None:
    border.ask(border.north)
    north, message = border.north, border.north.take()
    before = border.stored
    for seed in range(20):
        unasked = built(
            update(seed=seed),
            {
                "run_id": border.run,
                "message_id": "",
                "src_node_id": 1,
                "dst_node_id": north.node,
                "reply_to_message_id": "",
                "group_id": "1",
                "created_at": message.metadata.created_at,
                "ttl": 3e8,
                "message_type": "train",
            },
        )
        assert not north.push(unasked)
        tries.add()
    assert border.stored == before
    announced = {north.announce(north.reply_to(message, update())).status_code for _ in range(70)}
    assert announced == {200, 403}  # each one opens a session in the database, so they are counted
    tries.add(70)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.attack(OWN, "random requests in its own session")
def test_no_request_of_one_site_touches_the_other(border: Border, tries: Tries) -> None:
    rng, north, south = random.Random(17), border.north, border.south
    mine, theirs = border.ask(north), border.ask(south)
    message = north.take()
    tree = border.link.state.object_store.get_object_tree(theirs)
    names = [mine, theirs, "", "0" * 64, *(part.object_id for part in iterate_object_tree(tree))]
    before = border.stored
    for _ in range(100):
        fields = {
            "src_node_id": rng.choice([1, 0, north.node, south.node]),
            "dst_node_id": rng.choice([1, 0, north.node, south.node]),
            "reply_to_message_id": rng.choice(names),
            "run_id": rng.choice([border.run, 0, 7]),
            "ttl": rng.choice([1.0, 0.0, 1e9, math.nan]),
        }
        if (fields["src_node_id"], fields["dst_node_id"], fields["reply_to_message_id"]) == (north.node, 1, mine):
            continue  # that one is its own
        node = Node(node_id=rng.choice([north.node, south.node, 1]))
        assert north.announce(north.reply_to(message, update(8), **fields), node=node).status_code in (400, 401, 403)
        assert north.confirm(border.run, rng.choice(names[1:])).status_code == 403
        assert north.pull_object(border.run, rng.choice(names[1:])).status_code in (400, 403)
        tries.add(3)
    assert border.stored == before
    south.take()


@pytest.mark.parametrize("route", ["push-messages", "push-object", "pull-object", "activate-node"])
def test_what_is_no_message_of_flowers_is_refused(border: Border, route: str) -> None:
    answer = border.door.ask("north", route, content=b"\xff" * 50)
    assert (answer.status_code, answer.text) == (400, "not a message of Flower")


def test_a_gateway_that_is_started_again_knows_what_sites_received(border: Border) -> None:
    asked = border.ask(border.north)
    told = border.north.pull()
    message, tree = told.messages_list[0], told.message_object_trees[0]
    border.open()
    for part in iterate_object_tree(tree):
        assert border.north.pull_object(border.run, part.object_id).status_code == 200
    reply = border.north.reply_to(message, update())
    wanted = PushMessagesResponse.FromString(border.north.announce(reply).content)
    border.open()  # the new one does not know that it was announced: the site is told to announce it again
    first = objects_of(reply)[wanted.objects_to_push[0]]
    again = border.north.push_object(border.run, wanted.session_id, first)
    assert not PushObjectResponse.FromString(again.content).stored
    assert border.north.push(reply)
    border.link.reply(border.run, asked)
    border.open()
    before = border.stored
    assert not border.north.push(border.north.reply_to(message, update(seed=2)))
    assert border.north.announce(reply).status_code == 200
    assert border.stored == before


def test_replies_in_a_run_that_is_over_are_dropped_and_not_tried_for_ever(border: Border) -> None:
    border.ask(border.north)
    message = border.north.take()
    path = border.door.home / "runs" / "study" / "run.json"
    path.write_text(path.read_text().replace(str(border.run), ""))
    assert border.north.announce(border.north.reply_to(message, update())).status_code == 403
    path.write_text(path.read_text().replace("running", "queued"))
    assert border.north.announce(border.north.reply_to(message, update())).status_code == 503


def test_a_push_that_is_empty_is_refused(border: Border) -> None:
    own = Node(node_id=border.north.node)
    assert border.north.post("push-messages", PushMessagesRequest(node=own)).status_code == 400
