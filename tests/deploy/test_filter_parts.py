"""Parts of the filter: the verdict on malformed replies, limits of the inbox, rotation of the log."""

import asyncio
import hashlib
import json
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, RecordDict
from flwr.app.message.message import Message
from flwr.common.constant import ErrorCode
from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR
from flwr.supernode.start_client_internal import FAB_VERIFICATION_ERROR

from cdtl_core.deploy.egress_filter.asks import Ask
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.egress_filter.inbox import Inbox
from cdtl_core.deploy.egress_filter.judge import judge
from cdtl_core.deploy.egress_filter.refusals import FLOWERS_OWN, NOT_APPROVED, passing
from cdtl_core.deploy.egress_filter.seal import Seal
from cdtl_core.deploy.egress_filter.signing import Signer
from cdtl_core.deploy.egress_filter.status import Status
from cdtl_core.deploy.egress_filter.upstream import Answer, Upstream
from cdtl_core.deploy.link import NODE_KEY, TRUSTED, Link
from cdtl_core.deploy.records import egress_files
from cdtl_core.federation.egress import EgressManifest, ReplyRule, Tensor
from cdtl_core.federation.egress_check import Own

LIST = EgressManifest(
    labels=("a", "b"),
    positive="b",
    replies={"train": ReplyRule(arrays={"delta": {"w": Tensor(dtype="float16", shape=(2,), bytes=132)}})},
)
ASK = Ask(
    run_id=1, message_id="0" * 64, src_node_id=1, dst_node_id=5, group_id="1", message_type="train", created_at=0.0,
    ttl=60.0,
)  # fmt: skip


def headed(kind: str, children: list[str], body: bytes) -> bytes:
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body


def test_an_array_that_grows_without_bound_is_refused_before_it_is_read() -> None:
    chunk = headed("ArrayChunk", [], b"x" * 10_000)
    name = hashlib.sha256(chunk).hexdigest()
    body = {"dtype": "uint8", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 10_000}
    array = headed("Array", [name], json.dumps(body).encode())
    judged = judge(LIST, "train", "root", {"root": b"", name: chunk, "array": array}, Own())
    assert judged.content is None
    judged = judge(LIST, "train", "array", {name: chunk, "array": array}, Own())
    assert "bytes when decoded" in judged.reason


@pytest.mark.parametrize("content", [b"", b"no head", b"Message  0\x00", b"Message a,b 1\x00x", b"Thing  1\x00x"])
def test_whatever_is_malformed_does_not_leave(content: bytes) -> None:
    assert judge(LIST, "train", "root", {"root": content}, Own()).content is None


def test_a_reply_that_is_no_message_does_not_leave() -> None:
    record = RecordDict()
    assert "no content" in judge(LIST, "train", "root", {"root": record.deflate()}, Own()).reason
    empty = ASK.reply(NOT_APPROVED)
    assert "no content" in judge(LIST, "train", "root", {"root": empty.deflate()}, Own()).reason


def test_a_reply_carries_the_metadata_of_its_question() -> None:
    reply = ASK.reply(RecordDict())
    assert isinstance(reply, Message)
    told = reply.metadata
    assert (told.src_node_id, told.dst_node_id, told.reply_to_message_id, told.ttl) == (5, 1, "0" * 64, ASK.ttl)
    assert told.created_at == ASK.created_at  # not how long the site took
    assert told.message_id == reply.object_id


def test_the_inbox_takes_only_what_was_announced_and_is_what_it_says() -> None:
    content = Array("uint8", (1,), "numpy.ndarray", b"abc").deflate()
    name, inbox = hashlib.sha256(content).hexdigest(), Inbox()
    session = inbox.open(ASK, name, [name, "f" * 64], 1000)
    assert inbox.put("another", name, content) is None
    assert inbox.put(session, name, content + b"!") is None
    assert inbox.put(session, hashlib.sha256(b"z").hexdigest(), b"z") is None
    parcel = inbox.put(session, name, content)
    assert parcel is not None
    assert not parcel.complete
    assert inbox.put(session, name, content) is parcel
    again = inbox.open(ASK, name, [name], 2)
    assert inbox.put(session, name, content) is None
    parcel = inbox.put(again, name, content)
    assert parcel is not None
    assert parcel.overfull


def test_flowers_own_sentences_are_still_flowers() -> None:
    for error in (FAB_VERIFICATION_ERROR, CLIENT_APP_CRASHED_ERROR):
        assert (error.code, error.reason) in FLOWERS_OWN
        assert passing(error) == (error.code, error.reason)
    assert {code for code, _ in FLOWERS_OWN} == {
        ErrorCode.INVALID_FAB,
        ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
        ErrorCode.CLIENT_APP_CRASHED,
    }


def test_the_log_is_rotated_and_its_sum_kept(tmp_path: Path) -> None:
    log = EgressLog(tmp_path, max_bytes=600)
    for size in range(1, 9):
        log.count("push-object", size)
        log.flush()
    files = sorted((tmp_path / "logs").iterdir())
    assert 2 <= len(files) <= egress_files(tmp_path).kept + 1
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sum(line["requests"]["push-object"]["bytes"] for line in lines) == 36


def test_every_filter_has_a_key_of_its_own(tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        Seal().publish(Link(tmp_path))
        keys.add((tmp_path / TRUSTED).read_text())
        keys.add((tmp_path / NODE_KEY).read_text())
        assert (tmp_path / NODE_KEY).stat().st_mode & 0o777 == 0o600
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("failure", "uncertain"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.ConnectTimeout("slow"), False),
        (httpx.ReadError("cut off"), True),
        (httpx.RemoteProtocolError("hung up"), True),
        (httpx.ReadTimeout("silent"), True),
        (503, False),
        (502, True),
        (504, True),
    ],
)
def test_an_answer_that_may_have_been_lost_on_its_way_is_told_from_a_request_that_never_went(
    tmp_path: Path, failure: httpx.HTTPError | int, uncertain: bool
) -> None:
    signer = Signer(ec.generate_private_key(ec.SECP384R1()))

    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(failure, int):
            return httpx.Response(failure)
        raise failure

    async def ask() -> Answer:
        async with httpx.AsyncClient(base_url="https://c", transport=httpx.MockTransport(handle)) as client:
            return await Upstream(client, EgressLog(tmp_path), Status(tmp_path), signer).send("pull-messages", b"")

    assert asyncio.run(ask()).uncertain is uncertain
