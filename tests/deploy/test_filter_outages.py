"""The egress filter during outages of the coordinator, of the SuperNode and of itself."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from cdtl_core.deploy.egress_filter.refusals import RESTARTED
from cdtl_core.deploy.egress_filter.status import read_status
from cdtl_core.deploy.link import TRUSTED
from tests.deploy.desk import BUNDLE, SECRET, Desk, Node, error_of, honest
from tests.deploy.loopback import eventually, free_port, write_certificates

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",  # of Flower's SuperLink app
)


@pytest.mark.parametrize("broken", ["push-messages", "push-object"])
def test_a_reply_outlives_an_outage_of_the_coordinator(open_desk: tuple[Desk, Node], broken: str) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, desk.order())
    message = node.take()
    assert message is not None
    desk.coordinator.broken.add(broken)
    node.answer(message, honest(approval.egress))
    assert desk.coordinator.refused.wait(10)
    desk.coordinator.broken.clear()
    assert desk.coordinator.reply(run, asked).has_content()


def test_a_message_whose_objects_come_too_late_is_asked_for_again_and_ends_no_run(
    open_desk: tuple[Desk, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdtl_core.deploy.egress_filter.admission._WAIT_S", 0.3)
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    desk.coordinator.broken.add("pull-object")
    asked = desk.coordinator.ask(run, node.id, desk.order())
    assert node.take() is None
    desk.coordinator.broken.clear()
    assert error_of(desk.coordinator.reply(run, asked)) == RESTARTED


def test_a_new_filter_tells_the_coordinator_what_a_killed_one_left_open(desk: Desk) -> None:
    approval = desk.approve()
    with ExitStack() as stack:
        with desk.process() as process:
            old = stack.enter_context(desk.node())
            run = desk.coordinator.start_run(BUNDLE, desk.settings)
            asked = desk.coordinator.ask(run, old.id, desk.order())
            assert old.take() is not None
            process.kill()
        stack.enter_context(desk.filter())
        node = stack.enter_context(desk.node())  # the service starts the SuperNode again with its filter
        assert error_of(desk.coordinator.reply(run, asked)) == RESTARTED
        assert b"val_auroc" not in desk.coordinator.heard
        with pytest.raises(ObjectPushError):
            node.push_object(run, "a session of the old filter", "0" * 64, b"content")
        again = desk.coordinator.ask(run, node.id, desk.order(2), round="2")
        message = node.take()
        assert message is not None
        node.answer(message, honest(approval.egress))
        assert desk.coordinator.reply(run, again).has_content()


def test_a_question_is_kept_open_until_the_coordinators_message_comes(desk: Desk) -> None:
    desk.approve()
    desk.config = desk.config.model_copy(update={"hold_s": 20.0})
    with desk.filter(), desk.node() as node, ThreadPoolExecutor(1) as pool:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        taken = pool.submit(node.take)
        eventually(lambda: [name for name, _ in desk.coordinator.bodies].count("pull-messages") >= 3, "three looks")
        assert not taken.done()
        desk.coordinator.ask(run, node.id, desk.order())
        assert taken.result(10) is not None


def test_a_message_is_not_fetched_for_a_supernode_that_hung_up(desk: Desk) -> None:
    desk.approve()
    desk.config = desk.config.model_copy(update={"hold_s": 20.0})
    with desk.filter(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        with desk.client() as impatient:
            impatient._client.timeout = httpx.Timeout(0.7)
            with pytest.raises(httpx.ReadTimeout):
                impatient.PullMessages(PullMessagesRequest(node=ProtoNode(node_id=node.id)))
        threading.Event().wait(0.6)  # one more look at most; there is no event of its end
        desk.coordinator.ask(run, node.id, desk.order())
        assert node.take() is not None


def test_a_killed_supernodes_message_is_answered_when_it_comes_again(desk: Desk) -> None:
    desk.approve()
    with desk.filter(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        asked = desk.coordinator.ask(run, node.id, desk.order())
        assert node.take() is not None
        desk.coordinator.state.deactivate_node(node.id)
        with desk.node():
            assert error_of(desk.coordinator.reply(run, asked)) == RESTARTED


def test_a_supernode_that_owes_a_reply_and_asks_for_more_is_ended_and_answered_for(desk: Desk) -> None:
    """Else it would push each reply one message late: Flower pushes only after the next message has come."""
    desk.approve()
    with desk.filter(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        asked = desk.coordinator.ask(run, node.id, desk.order())
        assert node.take() is not None
        with desk.client() as out_of_step, pytest.raises(httpx.HTTPStatusError, match="401"):
            out_of_step.PullMessages(PullMessagesRequest(node=ProtoNode(node_id=node.id)))
        desk.coordinator.state.deactivate_node(node.id)
        with desk.node() as restarted:
            assert error_of(desk.coordinator.reply(run, asked)) == RESTARTED
            assert restarted.take() is None


@pytest.mark.parametrize("fault", ["no listener", "another authority"])
def test_a_coordinator_out_of_reach_is_503_for_the_supernode_and_told_in_the_state(
    desk: Desk, tmp_path: Path, fault: str
) -> None:
    stranger = write_certificates(tmp_path / "stranger").ca
    changed = {"upstream_port": free_port()} if fault == "no listener" else {"ca": stranger}
    desk.config = desk.config.model_copy(update=changed)
    with desk.filter(), desk.bare() as client:
        asked = client.post("/v1/fleet/pull-messages", content=PullMessagesRequest().SerializeToString())
        assert asked.status_code == 503
    state = read_status(desk.home)
    assert state["connected"] is False
    assert ("CERTIFICATE" in state["last_fault"]["why"].upper()) is (fault == "another authority")
    assert desk.coordinator.bodies == []


def test_only_the_fleet_paths_exist_and_bodies_are_bounded(open_desk: tuple[Desk, Node]) -> None:
    desk, _ = open_desk
    with desk.bare() as client:
        for path in ("/v1/control/list-runs", "/v1/fleet/register-node", "/v1/fleet/", "/docs", "/v1/fleet/get-run/x"):
            assert client.post(path).status_code == 404
        assert client.get("/v1/fleet/get-run").status_code == 405
        assert client.post("/v1/fleet/get-run", content=b"x" * 70_000).status_code == 413
        assert client.post("/v1/fleet/get-run", content=SECRET.encode()).status_code == 400
        hidden = b"\x12\x19" + SECRET.encode()  # field 2 of GetFabRequest is the hash
        assert client.post("/v1/fleet/get-fab", content=hidden).status_code == 400
    assert {name for name, _ in desk.coordinator.bodies} <= {"activate-node", "send-node-heartbeat"}
    assert SECRET.encode() not in desk.coordinator.heard


def test_a_killed_supernodes_session_is_closed_for_the_next_one_and_the_last_one_with_the_filter(desk: Desk) -> None:
    with desk.filter(), ExitStack() as stack:
        node = stack.enter_context(desk.node())
        # Its first heartbeat comes at once, from a thread. A killed node sends none, so none may follow from here on.
        eventually(lambda: "send-node-heartbeat" in dict(desk.coordinator.bodies), "the first heartbeat")
        assert not desk.coordinator.state.activate_node(node.id, 30.0)
        with desk.node() as again:  # the first has not said that it ended
            assert again.id == node.id
        assert stack.enter_context(desk.node()).id == node.id
    assert desk.coordinator.state.activate_node(node.id, 30.0)


def test_a_stranger_at_the_filter_is_not_signed_for(desk: Desk) -> None:
    with desk.filter():
        desk.node_key = desk.key  # the site's own key opens nothing here: only the pass of this filter does
        with desk.bare() as client:
            assert client.post("/v1/fleet/get-run").status_code == 401
        with desk.bare() as client:
            client.headers.pop("flwr-signature")
            assert client.post("/v1/fleet/get-run").status_code == 401
    assert desk.coordinator.bodies == []


def test_the_process_serves_without_torch_and_ends_at_sigterm(desk: Desk) -> None:
    approval = desk.approve()
    with desk.process() as process:
        entities = yaml.safe_load((desk.config.link / TRUSTED).read_text())
        assert entities["fpk_cdtl_filter"].startswith("ssh-ed25519 ")
        with desk.node() as node:
            run = desk.coordinator.start_run(BUNDLE, desk.settings)
            asked = desk.coordinator.ask(run, node.id, desk.order())
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
    command = [sys.executable, "-m", "cdtl_core.deploy.egress_filter", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert ended.stderr.strip().count("\n") == 0
