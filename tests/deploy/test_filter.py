"""The egress filter between Flower's own SuperNode connection and SuperLink: which messages pass and which do not."""

# mypy: disable-error-code=arg-type

import hashlib
import struct
from typing import Any

import numpy as np
import pytest
import yaml
from flwr.app import Array, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.supernode.start_client_internal import _verify_fab

from cdtl_core.config.settings import save_toml
from cdtl_core.deploy.approval_list import withdraw
from cdtl_core.deploy.approvals import approve
from cdtl_core.deploy.egress_filter.refusals import HELD_BACK, NOT_APPROVED
from cdtl_core.deploy.egress_filter.status import read_status
from cdtl_core.deploy.link import TRUSTED
from cdtl_core.deploy.pending import find, pending, request_of
from cdtl_core.errors import CdtlError, FederationError, reply_error
from cdtl_core.federation.egress import EgressManifest
from cdtl_core.federation.packing import arrays_of, pack, packed
from tests.deploy.desk import BUNDLE, RUNTIME_S, SECRET, Desk, Node, error_of, honest

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",  # of Flower's SuperLink app
)


@pytest.mark.attack("no run time leaves a site", "the SuperNode reports the app's run time")
def test_an_approved_runs_reply_arrives_whole_and_every_byte_is_in_the_log(desk: Desk) -> None:
    approval = desk.approve()
    sent = honest(approval.egress)
    with desk.filter(), desk.node() as node:
        run = desk.coordinator.start_run(BUNDLE, desk.settings)
        asked = desk.coordinator.ask(run, node.id, desk.order())
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
    assert struct.pack("<d", RUNTIME_S) not in desk.coordinator.heard
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
    trusted = yaml.safe_load((desk.config.link / TRUSTED).read_text())
    name = hashlib.sha256(BUNDLE).hexdigest()
    refused = desk.coordinator.start_run(BUNDLE, desk.settings)
    desk.coordinator.ask(refused, node.id, desk.order())
    assert node.take() is None
    assert node.get_run(refused).fab_hash == name
    fab = node.get_fab(name, refused)
    assert (fab.content, fab.verifications) == (b"", {})
    waiting = find(desk.home, name[:8])
    assert (desk.home / "pending" / f"{waiting.id}.fab").read_bytes() == BUNDLE
    assert "is not approved at this site" in waiting.reason
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
        asked = desk.coordinator.ask(run, node.id, desk.order())
        assert node.take() is None
        assert error_of(desk.coordinator.reply(run, asked)) == NOT_APPROVED
    reasons = {entry.reason for entry in pending(desk.home).values()}
    assert any("train.lr = 0.0005, the run has 0.5" in reason for reason in reasons)


def test_a_locked_setting_refuses_an_approved_run(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    desk.approve()
    save_toml(desk.config.settings, {**desk.site.model_dump(mode="json", exclude_none=True), "lock": {"seed": 5}})
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, desk.order())
    assert node.take() is None
    assert error_of(desk.coordinator.reply(run, asked)) == NOT_APPROVED
    desk.config.settings.write_text("not toml = = ")
    asked = desk.coordinator.ask(run, node.id, desk.order(2), round="2")
    assert node.take() is None
    assert error_of(desk.coordinator.reply(run, asked)) == NOT_APPROVED


def test_withdrawing_an_approval_holds_in_the_middle_of_a_run(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    under_way = desk.coordinator.ask(run, node.id, desk.order())
    message = node.take()
    assert message is not None
    withdraw(desk.home, approval.id)
    node.answer(message, honest(approval.egress))
    assert error_of(desk.coordinator.reply(run, under_way)) == NOT_APPROVED
    next_round = desk.coordinator.ask(run, node.id, desk.order(2), round="2")
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


@pytest.mark.attack("No run time leaves a site", "read the times in a reply")
def test_no_reply_says_how_long_the_site_worked(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    sent = honest(desk.approve().egress)
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, desk.order())
    message = node.take()
    assert message is not None
    before = desk.coordinator.heard
    node.answer(message, sent)
    told = desk.coordinator.reply(run, asked).metadata
    assert (told.created_at, told.ttl) == (message.metadata.created_at, message.metadata.ttl)
    assert struct.pack("<d", RUNTIME_S) not in desk.coordinator.heard[len(before) :]


def test_a_packed_reply_is_judged_tensor_by_tensor_and_leaves_packed(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    approval = desk.approve()
    sent = honest(approval.egress)
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, desk.order())
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
    asked = desk.coordinator.ask(run, node.id, desk.order())
    message = node.take()
    assert message is not None
    try:
        node.answer(message, smuggled(approval.egress)[what])
    except Exception:
        assert what == "long"  # the filter stops taking what is too long
    assert error_of(desk.coordinator.reply(run, asked)) == HELD_BACK
    assert SECRET.encode() not in desk.coordinator.heard
    assert b"backbone" not in desk.coordinator.heard
    desk.outcome()
    assert [line["verdict"] for line in desk.log() if line["kind"] == "reply"] == ["held back"]


def test_a_replys_metadata_is_the_filters_own(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    approval = desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, desk.order())
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
    asked = desk.coordinator.ask(run, node.id, desk.order())
    message = node.take()
    assert message is not None
    node.answer(message, Error(code, reason))
    assert error_of(desk.coordinator.reply(run, asked)) == told
    assert SECRET.encode() not in desk.coordinator.heard


def test_a_type_of_message_that_is_not_listed_is_answered_by_the_filter(open_desk: tuple[Desk, Node]) -> None:
    desk, node = open_desk
    desk.approve()
    run = desk.coordinator.start_run(BUNDLE, desk.settings)
    asked = desk.coordinator.ask(run, node.id, RecordDict(), kind="query.diary")
    assert node.take() is None
    assert error_of(desk.coordinator.reply(run, asked)) == HELD_BACK
