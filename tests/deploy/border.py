"""Two admitted sites at a real gateway before Flower's own SuperLink; one of them is hostile."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)

from cdtl_core.deploy.egress_filter.signing import Signer
from cdtl_core.deploy.keys import flower_bytes, load_key
from cdtl_core.deploy.members import admit, members
from cdtl_core.deploy.request import ApprovalRequest, save_request
from cdtl_core.deploy.runs import RunState, save_run_state
from cdtl_core.federation.egress import EgressManifest, ReplyRule, Tensor, limit_of
from cdtl_core.system.durable import replace_json
from tests.deploy import entrance, loopback
from tests.deploy.entrance import Enrol

BUNDLE = b"the code of a run"
SIZE = 4096
MANIFEST = EgressManifest(
    labels=("benign", "malignant"),
    positive="malignant",
    replies={
        "train": ReplyRule(
            arrays={"delta": {"weight": Tensor(dtype="float16", shape=(SIZE,), bytes=2 * SIZE + 128)}},
            total_bytes=2 * SIZE + 128,
        )
    },
)
LIMIT = limit_of(MANIFEST, "train")


def update(count: int = SIZE, seed: int = 1) -> RecordDict:
    """An update of `count` weights; more than `SIZE` are more than the egress list allows."""
    values = np.frombuffer(np.random.default_rng(seed).bytes(2 * count), np.float16)
    return RecordDict({"delta": ArrayRecord({"weight": Array(values)})})


class Site:
    """An admitted site that speaks Flower's protocol by hand."""

    def __init__(self, name: str, node: int, client: httpx.Client, headers: dict[str, str]) -> None:
        self.name, self.node, self._client, self._headers = name, node, client, headers

    def post(self, route: str, request: Any) -> httpx.Response:
        return self._client.post(f"/v1/fleet/{route}", content=request.SerializeToString(), headers=self._headers)

    def pull(self) -> PullMessagesResponse:
        answer = self.post("pull-messages", PullMessagesRequest(node=Node(node_id=self.node)))
        assert answer.status_code == 200, answer.text
        return PullMessagesResponse.FromString(answer.content)

    def take(self) -> Message:
        """The next message with all of its objects, confirmed."""
        told = self.pull()
        message, tree = told.messages_list[0], told.message_object_trees[0]
        for part in iterate_object_tree(tree):
            found = PullObjectResponse.FromString(self.pull_object(message.metadata.run_id, part.object_id).content)
            assert found.object_available
        assert self.confirm(message.metadata.run_id, message.metadata.message_id).status_code == 200
        return message  # type: ignore[no-any-return]

    def pull_object(self, run: int, name: str) -> httpx.Response:
        return self.post("pull-object", PullObjectRequest(node=Node(node_id=self.node), run_id=run, object_id=name))

    def confirm(self, run: int, name: str) -> httpx.Response:
        node = Node(node_id=self.node)
        return self.post(
            "confirm-message-received",
            ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=name),
        )

    def reply_to(self, asked: Any, content: RecordDict | Error, **fields: Any) -> Message:
        """A reply, right unless `fields` say otherwise."""
        got, now = asked.metadata, time.time()
        plain = {
            "run_id": got.run_id,
            "message_id": "",
            "src_node_id": self.node,
            "dst_node_id": 1,
            "reply_to_message_id": got.message_id,
            "group_id": got.group_id,
            "created_at": now,
            "ttl": got.created_at + got.ttl - now,
            "message_type": got.message_type,
            "src_task_id": got.dst_task_id if got.HasField("dst_task_id") else None,
            "dst_task_id": got.src_task_id if got.HasField("src_task_id") else None,
        }
        return built(content, {**plain, **fields})

    def announce(self, message: Message, **fields: Any) -> httpx.Response:
        with no_object_id_recompute():
            tree = get_object_tree(message)
        bare = remove_content_from_message(message) if message.has_content() else message
        request = PushMessagesRequest(
            **{
                "node": Node(node_id=self.node),
                "messages_list": [message_to_proto(bare)],
                "message_object_trees": [tree],
                **fields,
            }
        )
        return self.post("push-messages", request)

    def push_object(self, run: int, session: str, content: bytes, name: str = "") -> httpx.Response:
        request = PushObjectRequest(
            node=Node(node_id=self.node),
            run_id=run,
            session_id=session,
            object_id=name or hashlib.sha256(content).hexdigest(),
            object_content=content,
        )
        return self.post("push-object", request)

    def push(self, message: Message) -> bool:
        """Announce a message and push what is wanted; whether all of it was stored."""
        answer = self.announce(message)
        if answer.status_code != 200:
            return False
        told = PushMessagesResponse.FromString(answer.content)
        return bool(told.objects_to_push) and self.push_objects(message, told)

    def push_objects(self, message: Message, told: PushMessagesResponse) -> bool:
        objects, run = objects_of(message), message.metadata.run_id
        answers = [self.push_object(run, told.session_id, objects[name]) for name in told.objects_to_push]
        return all(one.status_code == 200 and PushObjectResponse.FromString(one.content).stored for one in answers)


def built(content: RecordDict | Error, fields: dict[str, Any]) -> Message:
    metadata = Metadata(**fields)
    metadata.delivered_at = ""
    kind = {"error": content} if isinstance(content, Error) else {"content": content}
    message = make_message(metadata, **kind)
    metadata.__dict__["_message_id"] = message.object_id
    return message


def objects_of(message: Message) -> dict[str, bytes]:
    with no_object_id_recompute():
        return {name: part.deflate() for name, part in get_all_nested_objects(message).items()}


class Border:
    """The coordinator's folder, Flower's SuperLink, and gateways that can be started again."""

    def __init__(self, home: Path, stack: ExitStack, enrolled: Enrol) -> None:
        self.door = entrance.Coordinator(home, stack)
        self.door.superlink.listener.close()
        certificates = loopback.Certificates(home / "ca.crt", home / "server.crt", home / "server.key")
        self.link = loopback.Coordinator(certificates)
        stack.enter_context(loopback.served(self.link, self.link.port, certificates))
        self.nodes: dict[str, int] = {}
        for site in ("north", "south"):
            admit(home, enrolled(site))
            self.nodes[site] = self.link.enrol(load_key(home / site).public_key())
        entries = {
            one.enrolment.fingerprint: {"site": one.site, "node": str(self.nodes[one.site])} for one in members(home)
        }
        replace_json(home / "flower" / "nodes.json", entries)
        self.run = self.start_run("study", ("north", "south"))
        self.open()
        for site in (self.north, self.south):
            answer = site.post(  # type: ignore[attr-defined]
                "activate-node",
                ActivateNodeRequest(public_key=self.key_of(site.name), heartbeat_interval=30),  # type: ignore[attr-defined]
            )
            assert answer.status_code == 200, answer.text
            assert ActivateNodeResponse.FromString(answer.content).node_id == site.node  # type: ignore[attr-defined]

    def open(self) -> None:
        """A gateway that knows nothing but what is on disk; sites that connect to it."""
        self.door.start(upstream_port=self.link.port)
        self.north, self.south = self.site("north"), self.site("south")

    def site(self, name: str) -> Site:
        headers = Signer(load_key(self.door.home / name)).headers()
        return Site(name, self.nodes[name], self.door.client(name), headers)

    def key_of(self, name: str) -> bytes:
        return flower_bytes(load_key(self.door.home / name).public_key())

    def start_run(self, name: str, sites: tuple[str, ...]) -> int:
        run, folder = self.link.start_run(BUNDLE, {}), self.door.home / "runs" / name
        request = ApprovalRequest(
            name=name,
            cdtl_version="0",
            bundle_sha256=hashlib.sha256(BUNDLE).hexdigest(),
            settings={},
            egress=MANIFEST,
            sites=sites,
        )
        folder.mkdir(parents=True)
        save_request(folder / "request.json", request)
        save_run_state(folder, RunState(status="running", flower_run=str(run)))
        return run

    def ask(self, site: Site, **arguments: Any) -> str:
        order = RecordDict({"order": ConfigRecord({"to": site.name, "at": time.time()})})
        return self.link.ask(self.run, site.node, order, **arguments)

    @property
    def stored(self) -> tuple[int, int, int]:
        """Messages to sites, replies and objects in the SuperLink's database."""
        state = self.link.state
        return len(state.message_ins_store), len(state.message_res_store), len(state.object_store)


@pytest.fixture
def border(tmp_path: Path, enrolled: Enrol) -> Iterator[Border]:
    with ExitStack() as stack:
        yield Border(tmp_path, stack, enrolled)
