"""Checks what a member asks of the SuperLink: only for its own node, messages and replies.

Flower's SuperLink authenticates the node of a request and trusts the rest of it. Therefore the gateway reads every
request, compares it with what it handed to this site, and forwards the decoded request, not the received bytes.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest
from google.protobuf.message import DecodeError

from cdtl_core.deploy.allowance import Books
from cdtl_core.deploy.deliveries import Deliveries, Delivery
from cdtl_core.deploy.door import Refusal
from cdtl_core.deploy.keys import flower_bytes, read_public_line
from cdtl_core.deploy.members import Member
from cdtl_core.deploy.reply_form import SERVER_NODE, check_hash, check_reply, names_of

__all__ = ["Inspector", "Settled"]

_SHORTEST_BEAT_S, _LONGEST_BEAT_S = 10.0, 60.0  # a SuperNode sends 30
_LONGEST_RUNTIME_S = 1e7
_MOST_ANNOUNCEMENTS = 64
_MOST_REPEATED = 4

_KINDS: dict[str, Any] = {
    "activate-node": ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "pull-messages": PullMessagesRequest,
    "push-messages": PushMessagesRequest,
    "push-object": PushObjectRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
    "get-run": GetRunRequest,
    "get-fab": GetFabRequest,
}


class Settled(Exception):  # noqa: N818
    """The gateway knows the answer without the SuperLink.

    Attributes:
        content: The answer, in protobuf.
        reason: For the log.
    """

    def __init__(self, content: bytes, reason: str) -> None:
        super().__init__(reason)
        self.content = content
        self.reason = reason


class _NotItsNode(Refusal):
    """401 in Flower's own form: the request names another node, so a SuperNode must begin a new session."""

    media_type = "application/json"

    def __init__(self) -> None:
        super().__init__(401, "not this site's node")

    @property
    def told(self) -> str:
        """The SuperLink's text for this case."""
        return json.dumps({"detail": "Invalid SuperNode authentication"})


@dataclass(frozen=True)
class Passed:
    """A request that may pass: its kind, its bytes as forwarded, and its message, if any."""

    request: Any
    delivery: Delivery | None = None

    @property
    def content(self) -> bytes:
        """The bytes for the SuperLink."""
        content: bytes = self.request.SerializeToString()
        return content


class Inspector:
    """Checks requests of members, and learns from the SuperLink's answers.

    Args:
        books: Nodes and runs.
        deliveries: The messages handed to each site.
    """

    def __init__(self, books: Books, deliveries: Deliveries) -> None:
        self._books, self._deliveries = books, deliveries
        self._checks: dict[str, Callable[[Member, Any], Delivery | None]] = {
            "activate-node": self._heartbeat,
            "send-node-heartbeat": self._heartbeat,
            "push-messages": self._push_messages,
            "push-object": self._push_object,
            "pull-object": self._pull_object,
            "confirm-message-received": self._confirm,
            "get-run": self._get_run,
            "get-fab": self._get_fab,
        }

    def check(self, name: str, member: Member, key: str, body: bytes) -> Passed:
        """Decode and check a request.

        Args:
            name: The route.
            member: The site that sent it.
            key: Fingerprint of the member's key that signed it; each key is one node.
            body: The request, in protobuf.

        Raises:
            Refusal: It is malformed, or the site may not ask for this.
            Settled: The answer is known.
        """
        try:
            request = _KINDS[name].FromString(body)
        except DecodeError:
            raise Refusal(400, "not a message of Flower") from None
        request.DiscardUnknownFields()
        own = self._books.node_of(key)
        if name == "activate-node":
            _check_key(request.public_key, member, key)
        else:
            node = request.node_id if name == "deactivate-node" else request.node.node_id
            if node != own:
                raise _NotItsNode
        check = self._checks.get(name)
        return Passed(request, check(member, request) if check else None)

    def learn(self, name: str, site: str, passed: Passed, answer: bytes) -> bool:
        """Record the SuperLink's answer 200; True if state must be written before the site gets the answer.

        Args:
            name: The route.
            site: The site.
            passed: The request.
            answer: The SuperLink's answer.

        Raises:
            Refusal: 502: the SuperLink returns something that does not belong to the site.
        """
        if name == "pull-messages":
            return self._pulled(site, passed.request.node.node_id, PullMessagesResponse.FromString(answer))
        delivery = passed.delivery
        if delivery is None:
            return False
        if name == "confirm-message-received":
            delivery.objects = set()
            return True
        if name == "push-messages":
            return _announced(delivery, passed.request, PushMessagesResponse.FromString(answer))
        if name == "push-object":
            delivery.num_bytes += len(passed.request.object_content)
            if PushObjectResponse.FromString(answer).stored:
                return delivery.stored(passed.request.object_id)
        return False

    def _heartbeat(self, _: Member, request: Any) -> None:
        _check_beat(request.heartbeat_interval)

    def _get_run(self, member: Member, request: Any) -> None:
        if not self._deliveries.in_run(member.site, request.run_id):
            raise Refusal(403, "not a run of this site")

    def _get_fab(self, member: Member, request: Any) -> None:
        self._get_run(member, request)
        check_hash(request.hash_str)

    def _pull_object(self, member: Member, request: Any) -> None:
        check_hash(request.object_id)
        if not self._deliveries.pullable(member.site, request.run_id, request.object_id):
            raise Refusal(403, "not an object of this site's messages")

    def _confirm(self, member: Member, request: Any) -> Delivery:
        return self._of_site(member, request.message_object_id, request.run_id)

    def _push_messages(self, member: Member, request: Any) -> Delivery:
        if (len(request.messages_list), len(request.message_object_trees)) != (1, 1):
            raise Refusal(400, "not one reply")
        if not all(0 <= one <= _LONGEST_RUNTIME_S for one in request.clientapp_runtime_list[:2]):
            raise Refusal(400, "a run time that is none")
        if len(request.clientapp_runtime_list) > 1 or request.messages_list[0].content.ByteSize():
            raise Refusal(400, "more than a reply")
        reply, tree = request.messages_list[0], request.message_object_trees[0]
        delivery = self._of_site(member, reply.metadata.reply_to_message_id, reply.metadata.run_id)
        check_reply(reply, delivery, request.node.node_id)
        labels = member.enrolment.contract.labels
        allowance = self._books.allowance(delivery.run_id, member.site, labels, delivery.message_type)
        names_of(tree, allowance.num_objects)
        if tree.object_id != reply.metadata.message_id:
            raise Refusal(403, "a reply of other objects than its own")
        if delivery.answered:
            raise Settled(PushMessagesResponse().SerializeToString(), "answered already")
        if delivery.pushes >= _MOST_ANNOUNCEMENTS:
            raise Refusal(403, "announced too often")
        delivery.pushes += 1
        return delivery

    def _push_object(self, member: Member, request: Any) -> Delivery:
        delivery = self._deliveries.of_session(member.site, request.run_id, request.session_id)
        if delivery is None or (request.object_id not in delivery.wanted and request.object_id not in delivery.taken):
            # of no reply, or of one announced to an earlier gateway: the site announces it again
            raise Settled(PushObjectResponse(stored=False).SerializeToString(), "an object of no reply of this site")
        if hashlib.sha256(request.object_content).hexdigest() != request.object_id:
            raise Refusal(400, "an object that does not match its name")
        labels = member.enrolment.contract.labels
        allowance = self._books.allowance(delivery.run_id, member.site, labels, delivery.message_type)
        size = len(request.object_content)
        whole = sum(num_bytes for name, num_bytes in delivery.taken.items() if name != request.object_id) + size
        if whole > allowance.num_bytes or delivery.num_bytes + size > _MOST_REPEATED * allowance.num_bytes:
            raise Refusal(413, "too large: more bytes than the egress list allows")
        delivery.taken[request.object_id] = size
        return delivery

    def _of_site(self, member: Member, message_id: str, run_id: int) -> Delivery:
        delivery = self._deliveries.get(member.site, message_id)
        if delivery is None or delivery.run_id != run_id:
            raise Refusal(403, "not a message of this site: nothing was asked, or its time is over")
        return delivery

    def _pulled(self, site: str, node: int, told: PullMessagesResponse) -> bool:
        for message, tree in zip(told.messages_list, told.message_object_trees, strict=True):
            if message.metadata.dst_node_id != node or message.metadata.src_node_id != SERVER_NODE:
                raise Refusal(502, "a message that is not this site's")
            self._deliveries.add(site, Delivery.of(message.metadata, names_of(tree)))
        return bool(told.messages_list)


def _check_key(sent: bytes, member: Member, key: str) -> None:
    line, _ = member.keys(datetime.now(UTC)).get(key, ("", ""))
    if not line or sent != flower_bytes(read_public_line(line)):
        raise Refusal(401, "not this site's key: activation with another key")


def _check_beat(interval: float) -> None:
    if not _SHORTEST_BEAT_S <= interval <= _LONGEST_BEAT_S:
        raise Refusal(400, "a heartbeat interval out of bounds")


def _announced(delivery: Delivery, request: Any, told: PushMessagesResponse) -> bool:
    """Record the SuperLink's answer to an announcement; True if the reply was already complete."""
    names = names_of(request.message_object_trees[0])
    if wanted := names & set(told.objects_to_push):
        delivery.open(told.session_id, wanted)
    elif delivery.taken and names <= set(delivery.taken) | delivery.wanted:
        delivery.close()
    return delivery.answered
