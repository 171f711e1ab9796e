"""The site's gate between Flower's own SuperNode connection and Flower's own SuperLink, over TLS on loopback."""

import hashlib
import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, pull_objects, push_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.start_client_internal import _verify_fab

from cdtl_core.config import SimulationConfig, SiteConfig
from cdtl_core.deploy.approvals import Approval, approve, withdraw
from cdtl_core.deploy.gate.app import build_app
from cdtl_core.deploy.gate.config import GateConfig
from cdtl_core.deploy.gate.refusals import HELD_BACK, NOT_APPROVED, RESTARTED
from cdtl_core.deploy.gate.release import release_node
from cdtl_core.deploy.gate.seal import Seal
from cdtl_core.deploy.gate.status import read_status
from cdtl_core.deploy.pending import find, pending, request_of
from cdtl_core.deploy.request import make_request
from cdtl_core.errors import CdtlError, FederationError, reply_error
from cdtl_core.federation.egress import EgressManifest
from cdtl_core.federation.packing import arrays_of, pack, packed
from cdtl_core.settings import flatten, save_toml
from tests.deploy.loopback import Coordinator, eventually, free_port, served, write_certificates

BUNDLE = b"the code of a run"
SECRET = "Martha Example, born 1950"
Tiny = Callable[..., SimulationConfig]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",  # of Flower's SuperLink app
)


@dataclass
class Node:
    """Flower's SuperNode connection, used as its main loop does."""

    id: int
    receive: Callable[[], Any]
    send: Callable[..., Any]
    get_run: Callable[[int], Any]
    get_fab: Callable[[str, int], Any]
    pull_object: Callable[[int, str], bytes]
    push_object: Callable[[int, str, str, bytes], None]
    confirm: Callable[[int, str], None]

    def take(self) -> Message | None:
        """The next message, its objects pulled and confirmed."""
        if (received := self.receive()) is None:
            return None
        message, tree = received
        run, names = message.metadata.run_id, [part.object_id for part in iterate_object_tree(tree)]
        pull_objects(names, lambda name: self.pull_object(run, name))
        self.confirm(run, message.metadata.message_id)
        return message  # type: ignore[no-any-return]

    def answer(self, message: Message, content: RecordDict | Error) -> None:
        reply = Message(content, reply_to=message)  # type: ignore[call-overload]
        reply.metadata.__dict__["_message_id"] = reply.object_id
        wanted, session = self.send(reply, get_object_tree(reply), 0.5)
        run = reply.metadata.run_id
        push_objects(
            get_all_nested_objects(reply),
            lambda name, content: self.push_object(run, session, name, content),
            object_ids_to_push=wanted,
        )


@dataclass
class Desk:
    """A site with a gate before a coordinator, and what a test needs to play both."""

    home: Path
    config: GateConfig
    coordinator: Coordinator
    key: ec.EllipticCurvePrivateKey
    settings: dict[str, Any]
    site: SiteConfig
    run_config: Any
    seal: Seal

    @contextmanager
    def gate(self) -> Iterator[None]:
        self.seal.publish(self.config.trusted_entities)
        with served(build_app(self.config, self.seal), self.config.port, self.coordinator.certificates):
            yield

    @contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """The gate as a process of its own, as a site runs it."""
        file = self.home / "config.json"
        file.write_text(self.config.model_dump_json())
        command = [sys.executable, "-m", "cdtl_core.deploy.gate", str(file)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                eventually(lambda: (self.home / "gate.json").exists() or process.poll() is not None, "the gate")
                assert process.poll() is None
                yield process
            finally:
                process.kill()

    def client(self) -> FleetHttpClient:
        """A bare client with this site's signature, for what a SuperNode in order does not do."""
        signed = [RuntimeVersionHttpInterceptor("SuperNode"), NodeAuthHttpInterceptor(self.key, self.key.public_key())]
        address, ca = f"127.0.0.1:{self.config.port}", str(self.coordinator.certificates.ca)
        return FleetHttpClient.from_server_address(address, False, ca, signed)

    @contextmanager
    def node(self) -> Iterator[Node]:
        address, ca = f"127.0.0.1:{self.config.port}", self.coordinator.certificates.ca.read_bytes()
        with http_request_response(address, False, ca, (self.key, self.key.public_key())) as connection:
            yield Node(*connection)

    def approve(self, **settings: Any) -> Approval:
        request = make_request(self.run_config, hashlib.sha256(BUNDLE).hexdigest())
        return approve(self.home, request.model_copy(update={"settings": {**request.settings, **settings}}), self.site)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / "logs" / "egress.jsonl").read_text().splitlines()]

    def outcome(self, count: int = 1) -> None:
        """Wait until the gate has delivered so many replies."""
        eventually(lambda: [line["kind"] for line in self.log()].count("outcome") >= count, "the gate's outcome")


@pytest.fixture
def desk(tiny: Tiny, tmp_path: Path) -> Iterator[Desk]:
    home, certificates = tmp_path / "site", write_certificates(tmp_path / "tls")
    coordinator, key = Coordinator(certificates), ec.generate_private_key(ec.SECP384R1())
    coordinator.enrol(key.public_key())
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    save_toml(home / "site.toml", tree)
    config = GateConfig(
        home=home,
        settings=home / "site.toml",
        port=free_port(),
        certificate=certificates.certificate,
        private_key=certificates.key,
        upstream_host="127.0.0.1",
        upstream_port=coordinator.port,
        ca=certificates.ca,
        client_certificate=certificates.certificate,
        client_key=certificates.key,
        trusted_entities=home / "trusted.yaml",
        hold_s=0,
    )
    run = tiny().run
    with coordinator.open():
        yield Desk(home, config, coordinator, key, flatten(run), SiteConfig.model_validate(tree), run, Seal())


@pytest.fixture
def open_desk(desk: Desk) -> Iterator[tuple[Desk, Node]]:
    with ExitStack() as stack:
        stack.enter_context(desk.gate())
        yield desk, stack.enter_context(desk.node())


def honest(manifest: EgressManifest) -> RecordDict:
    """What a site of this list would answer to ``train``."""
    rng, tensors = np.random.default_rng(1), manifest.replies["train"].arrays["delta"]
    delta = {name: Array(rng.normal(size=tensor.shape).astype(np.float16)) for name, tensor in tensors.items()}
    metrics = {"round": 1, "val_loss": 0.5, "val_auroc": 0.75, "train_loss": 0.25}
    return RecordDict({"delta": ArrayRecord(delta), "metrics": MetricRecord(metrics)})


def error_of(message: Message) -> tuple[int, str]:
    return message.error.code, message.error.reason


def test_an_approved_runs_reply_arrives_whole_and_every_byte_is_in_the_log(desk: Desk) -> None:
    approval = desk.approve()
    sent = honest(approval.egress)
    with desk.gate(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        asked = desk.coordinator.ask(run, node.id, RecordDict({"order": ConfigRecord({"round": 1})}))
        message = node.take()
        assert message is not None
        node.answer(message, sent)
        reply = desk.coordinator.reply(run, asked)
        assert reply.metadata.group_id == "1"
        assert reply.content["metrics"] == sent["metrics"]
        assert {name: array.numpy().tobytes() for name, array in reply.content["delta"].items()} == {  # type: ignore[union-attr]
            name: array.numpy().tobytes()
            for name, array in sent["delta"].items()  # type: ignore[union-attr]
        }
        desk.outcome()
        assert read_status(desk.home)["node_id"] == str(node.id)
    traffic = [line["requests"] for line in desk.log() if line["kind"] == "traffic"]
    logged = sum(entry["bytes"] for requests in traffic for entry in requests.values())
    assert logged == len(desk.coordinator.heard)
    line = next(line for line in desk.log() if line["kind"] == "reply")
    tensors = len(approval.egress.replies["train"].arrays["delta"])
    assert (line["type"], line["round"], line["tensors"], line["scalars"]) == ("train", "1", tensors, 4)
    assert (line["verdict"], line["run"]) == ("approved", "tiny")


def test_an_approved_bundle_is_signed_for_the_supernode_and_an_unapproved_one_is_kept_unread(
    open_desk: tuple[Desk, Node],
) -> None:
    desk, node = open_desk
    trusted = yaml.safe_load(desk.config.trusted_entities.read_text())
    name = hashlib.sha256(BUNDLE).hexdigest()
    refused = desk.coordinator.start_run(BUNDLE, desk.settings)
    assert node.get_run(refused).fab_hash == name
    fab = node.get_fab(name, refused)
    assert (fab.content, fab.verifications) == (b"", {})
    waiting = find(desk.home, name[:8])
    assert (desk.home / "pending" / f"{waiting.id}.fab").read_bytes() == BUNDLE
    assert "nobody at this site has approved" in waiting.reason
    approve(desk.home, request_of(waiting), desk.site)
    assert pending(desk.home) == {}
    fab = node.get_fab(name, refused)
    assert fab.content == BUNDLE
    assert _verify_fab(fab, trusted)
    fab.content += b" altered"
    assert not _verify_fab(fab, trusted)


def test_messages_of_a_run_that_is_not_approved_never_reach_the_supernode(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    desk.approve()
    altered = desk.coordinator.start_run(BUNDLE + b"!", desk.settings)
    faster = desk.coordinator.start_run(BUNDLE, {**desk.settings, "train.lr": 0.5})
    agent = desk.coordinator.start_run(BUNDLE, desk.settings, task_type="flwr-simulation")
    for run in (altered, faster, agent):
        asked = desk.coordinator.ask(run, node.id, RecordDict())
        assert node.take() is None
        assert error_of(desk.coordinator.reply(run, asked)) == NOT_APPROVED
    reasons = {entry.reason for entry in pending(desk.home).values()}
    assert any("train.lr = 0.0005, the run says 0.5" in reason for reason in reasons)


def test_a_locked_setting_refuses_an_approved_run(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    desk.approve()
    save_toml(desk.config.settings, {**desk.site.model_dump(mode="json", exclude_none=True), "lock": {"seed": 5}})
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, RecordDict())
    assert node.take() is None
    assert error_of(desk.coordinator.reply(run, asked)) == NOT_APPROVED
    desk.config.settings.write_text("not toml = = ")
    asked = desk.coordinator.ask(run, node.id, RecordDict(), round="2")
    assert node.take() is None
    assert error_of(desk.coordinator.reply(run, asked)) == NOT_APPROVED


def test_withdrawing_an_approval_holds_in_the_middle_of_a_run(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    under_way = desk.coordinator.ask(run, node.id, RecordDict())
    message = node.take()
    assert message is not None
    withdraw(desk.home, approval.id)
    node.answer(message, honest(approval.egress))
    assert error_of(desk.coordinator.reply(run, under_way)) == NOT_APPROVED
    next_round = desk.coordinator.ask(run, node.id, RecordDict(), round="2")
    assert node.take() is None
    assert error_of(desk.coordinator.reply(run, next_round)) == NOT_APPROVED
    assert b"val_auroc" not in desk.coordinator.heard


def smuggled(manifest: EgressManifest) -> dict[str, Any]:
    """Replies that hold something more than the list has."""
    text = np.frombuffer(SECRET.encode(), dtype=np.uint8)
    extra, stuffed, renamed, long = (honest(manifest) for _ in range(4))
    extra["delta"]["film"] = Array(text)  # type: ignore[index]
    first = next(iter(stuffed["delta"]))
    stuffed["delta"][first] = Array("float16", (1,), "numpy.ndarray", SECRET.encode())  # type: ignore[index]
    renamed[SECRET] = MetricRecord({"a": 1})
    long["delta"]["film"] = Array(np.frombuffer(SECRET.encode() * 100_000, dtype=np.uint8))  # type: ignore[index]
    note = RecordDict({"note": ConfigRecord({"text": SECRET})})
    found = {"extra": extra, "stuffed": stuffed, "renamed": renamed, "note": note, "long": long}
    tensors = {name: array.numpy() for name, array in honest(manifest)["delta"].items()}  # type: ignore[union-attr]
    film = np.frombuffer((SECRET + " " * (len(SECRET) % 2)).encode(), dtype=np.float16)
    found["packed extra"] = RecordDict(pack("delta", {**tensors, "film": film}))
    found["packed name"] = RecordDict(pack("delta", {**tensors, SECRET: np.zeros(1, np.float16)}))
    found["packed note"] = RecordDict(pack("delta", tensors))
    found["packed note"]["delta.index"]["note"] = SECRET  # type: ignore[index]
    found["packed twice"] = RecordDict({**pack("delta", tensors), **pack("delta.index", {SECRET: film})})
    return found


def test_a_packed_reply_is_judged_tensor_by_tensor_and_leaves_packed(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    approval = desk.approve()
    sent = honest(approval.egress)
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, RecordDict())
    message = node.take()
    assert message is not None
    node.answer(message, packed(sent, ["delta"]))
    reply = desk.coordinator.reply(run, asked)
    assert set(reply.content) == {"delta", "delta.index", "metrics"}
    assert {name: value.tobytes() for name, value in arrays_of(reply.content, "delta").items()} == {
        name: array.numpy().tobytes()
        for name, array in sent["delta"].items()  # type: ignore[union-attr]
    }
    line = next(line for line in desk.log() if line["kind"] == "reply")
    assert (line["tensors"], line["scalars"]) == (len(sent["delta"]), 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "what",
    ["extra", "stuffed", "renamed", "note", "long", "packed extra", "packed name", "packed note", "packed twice"],
)
def test_a_reply_with_anything_more_than_the_list_is_held_back(open_desk: tuple[Desk, Node], what: str) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, RecordDict())
    message = node.take()
    assert message is not None
    try:
        node.answer(message, smuggled(approval.egress)[what])
    except Exception:
        assert what == "long"  # the gate stops taking what is too long
    assert error_of(desk.coordinator.reply(run, asked)) == HELD_BACK
    assert SECRET.encode() not in desk.coordinator.heard
    assert b"backbone" not in desk.coordinator.heard
    desk.outcome()
    assert [line["verdict"] for line in desk.log() if line["kind"] == "reply"] == ["held back"]


def test_a_replys_metadata_is_the_gates_own(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, RecordDict())
    message = node.take()
    assert message is not None
    message.metadata.__dict__["_group_id"] = SECRET
    node.answer(message, honest(approval.egress))
    assert desk.coordinator.reply(run, asked).metadata.group_id == "1"
    assert SECRET.encode() not in desk.coordinator.heard


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (2, f"<class 'ValueError'>:<'{SECRET}'>", reply_error(CdtlError)),
        (103, SECRET, reply_error(CdtlError)),
        (*reply_error(FederationError), reply_error(FederationError)),
        (8, "ClientApp stopped responding.", (8, "ClientApp stopped responding.")),
    ],
)
def test_of_an_error_only_fixed_sentences_leave(
    open_desk: tuple[Desk, Node], code: int, reason: str, told: tuple[int, str]
) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, RecordDict())
    message = node.take()
    assert message is not None
    node.answer(message, Error(code, reason))
    assert error_of(desk.coordinator.reply(run, asked)) == told
    assert SECRET.encode() not in desk.coordinator.heard


def test_a_type_of_message_that_is_not_listed_is_answered_by_the_gate(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, RecordDict(), kind="query.diary")
    assert node.take() is None
    assert error_of(desk.coordinator.reply(run, asked)) == HELD_BACK


@pytest.mark.parametrize("broken", ["push-messages", "push-object"])
def test_a_reply_outlives_an_outage_of_the_coordinator(open_desk: tuple[Desk, Node], broken: str) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, RecordDict())
    message = node.take()
    assert message is not None
    desk.coordinator.broken.add(broken)
    node.answer(message, honest(approval.egress))
    assert desk.coordinator.refused.wait(10)
    desk.coordinator.broken.clear()
    assert desk.coordinator.reply(run, asked).has_content()


def test_a_new_gate_tells_the_coordinator_what_a_killed_one_left_open(desk: Desk) -> None:
    approval = desk.approve()
    with ExitStack() as gates, ExitStack() as nodes:
        with desk.process() as process:
            node = nodes.enter_context(desk.node())
            run = desk.coordinator.start_run(BUNDLE, desk.settings)
            asked = desk.coordinator.ask(run, node.id, RecordDict())
            message = node.take()
            assert message is not None
            process.kill()
        gates.enter_context(desk.gate())
        node.answer(message, honest(approval.egress))  # to a gate that never asked
        assert error_of(desk.coordinator.reply(run, asked)) == RESTARTED
        assert b"val_auroc" not in desk.coordinator.heard
        with pytest.raises(ObjectPushError):
            node.push_object(run, "a session of the old gate", "0" * 64, b"content")
        again = desk.coordinator.ask(run, node.id, RecordDict(), round="2")
        message = node.take()
        assert message is not None
        node.answer(message, honest(approval.egress))
        assert desk.coordinator.reply(run, again).has_content()


def test_a_question_is_kept_open_until_the_coordinators_message_comes(desk: Desk) -> None:
    desk.approve()
    desk.config = desk.config.model_copy(update={"hold_s": 20.0})
    with desk.gate(), desk.node() as node, ThreadPoolExecutor(1) as pool:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        taken = pool.submit(node.take)
        eventually(lambda: [name for name, _ in desk.coordinator.bodies].count("pull-messages") >= 3, "three looks")
        assert not taken.done()
        desk.coordinator.ask(run, node.id, RecordDict())
        assert taken.result(10) is not None


def test_a_message_is_not_fetched_for_a_supernode_that_hung_up(desk: Desk) -> None:
    desk.approve()
    desk.config = desk.config.model_copy(update={"hold_s": 20.0})
    with desk.gate(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        with desk.client() as impatient:
            impatient._client.timeout = httpx.Timeout(0.7)
            with pytest.raises(httpx.ReadTimeout):
                impatient.PullMessages(PullMessagesRequest(node=ProtoNode(node_id=node.id)))
        threading.Event().wait(0.6)  # one more look at most; there is no event of its end
        desk.coordinator.ask(run, node.id, RecordDict())
        assert node.take() is not None


def test_a_killed_supernodes_message_is_answered_when_it_comes_again(desk: Desk) -> None:
    desk.approve()
    with desk.gate(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        asked = desk.coordinator.ask(run, node.id, RecordDict())
        assert node.take() is not None
        desk.coordinator.state.deactivate_node(node.id)
        with desk.node():
            assert error_of(desk.coordinator.reply(run, asked)) == RESTARTED


def test_a_supernode_that_owes_a_reply_and_asks_for_more_is_ended_and_answered_for(desk: Desk) -> None:
    """Else it would push each reply one message late: Flower pushes only after the next message has come."""
    desk.approve()
    with desk.gate(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        asked = desk.coordinator.ask(run, node.id, RecordDict())
        assert node.take() is not None
        with desk.client() as out_of_step, pytest.raises(httpx.HTTPStatusError, match="401"):
            out_of_step.PullMessages(PullMessagesRequest(node=ProtoNode(node_id=node.id)))
        desk.coordinator.state.deactivate_node(node.id)
        with desk.node() as restarted:
            assert error_of(desk.coordinator.reply(run, asked)) == RESTARTED
            assert restarted.take() is None


@pytest.mark.parametrize("fault", ["nobody there", "another authority"])
def test_a_coordinator_out_of_reach_is_503_for_the_supernode_and_told_in_the_state(
    desk: Desk, tmp_path: Path, fault: str
) -> None:
    stranger = write_certificates(tmp_path / "stranger").ca
    changed = {"upstream_port": free_port()} if fault == "nobody there" else {"ca": stranger}
    desk.config = desk.config.model_copy(update=changed)
    context = ssl.create_default_context(cafile=str(desk.coordinator.certificates.ca))
    with desk.gate(), httpx.Client(verify=context, trust_env=False) as client:
        url = f"https://127.0.0.1:{desk.config.port}/v1/fleet/get-run"
        assert client.post(url, content=GetRunRequest(run_id=1).SerializeToString()).status_code == 503
    state = read_status(desk.home)
    assert state["connected"] is False
    assert ("CERTIFICATE" in state["last_fault"]["why"].upper()) is (fault == "another authority")
    assert desk.coordinator.bodies == []


def test_only_the_fleet_paths_exist_and_bodies_are_bounded(open_desk: tuple[Desk, Node]) -> None:
    desk, _ = open_desk
    base, ca = f"https://127.0.0.1:{desk.config.port}", str(desk.coordinator.certificates.ca)
    with httpx.Client(base_url=base, verify=ssl.create_default_context(cafile=ca), trust_env=False) as client:
        for path in ("/v1/control/list-runs", "/v1/fleet/register-node", "/v1/fleet/", "/docs", "/v1/fleet/get-run/x"):
            assert client.post(path).status_code == 404
        assert client.get("/v1/fleet/get-run").status_code == 405
        assert client.post("/v1/fleet/get-run", content=b"x" * 70_000).status_code == 413
        assert client.post("/v1/fleet/get-run", content=SECRET.encode()).status_code == 400
        hidden = b"\x12\x19" + SECRET.encode()  # field 2 of GetFabRequest is the hash
        assert client.post("/v1/fleet/get-fab", content=hidden).status_code == 400
    assert {name for name, _ in desk.coordinator.bodies} <= {"activate-node", "send-node-heartbeat"}
    assert SECRET.encode() not in desk.coordinator.heard


def test_a_killed_supernodes_node_can_be_released(desk: Desk, tmp_path: Path) -> None:
    key_file = tmp_path / "node_key"
    key_file.write_bytes(desk.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    assert not release_node(desk.config, key_file)
    with desk.gate(), ExitStack() as stack:
        node = stack.enter_context(desk.node())
        eventually(lambda: read_status(desk.home).get("node_id") == str(node.id), "the node's id in gate.json")
        assert not desk.coordinator.state.activate_node(node.id, 30.0)
        assert release_node(desk.config, key_file)
        assert desk.coordinator.state.activate_node(node.id, 30.0)


def test_the_process_serves_without_torch_and_ends_at_sigterm(desk: Desk) -> None:
    approval = desk.approve()
    with desk.process() as process:
        entities = yaml.safe_load(desk.config.trusted_entities.read_text())
        assert entities["fpk_cdtl_gate"].startswith("ssh-ed25519 ")
        with desk.node() as node:
            run = desk.coordinator.start_run(BUNDLE, desk.settings)
            asked = desk.coordinator.ask(run, node.id, RecordDict())
            message = node.take()
            assert message is not None
            node.answer(message, honest(approval.egress))
            assert desk.coordinator.reply(run, asked).has_content()
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize("content", ["", "{}", '{"port": 1, "diary": 2}'])
def test_a_wrong_configuration_starts_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "gate.json"
    file.write_text(content)
    command = [sys.executable, "-m", "cdtl_core.deploy.gate", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert ended.stderr.strip().count("\n") == 0
