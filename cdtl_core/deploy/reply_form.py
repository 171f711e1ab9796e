"""Checks the metadata of a reply against the message that it answers; the same for every site."""

import math
import re
from typing import Any

from flwr.proto.message_pb2 import ObjectTree

from cdtl_core.deploy.deliveries import Delivery
from cdtl_core.deploy.door import Refusal

__all__ = ["SERVER_NODE", "check_hash", "check_reply", "names_of"]

SERVER_NODE = 1  # flwr.common.constant.SUPERLINK_NODE_ID
_HASH = re.compile(r"[0-9a-f]{64}")
_LONGEST_REASON = 4096
_TTL_TOLERANCE_S = 0.1  # flwr.common.constant.MESSAGE_TTL_TOLERANCE


def check_hash(name: str) -> None:
    """Refuse a name that is not 64 hex digits.

    Raises:
        Refusal: 400.
    """
    if not _HASH.fullmatch(name):
        raise Refusal(400, "a name that is not a hash")


def check_reply(reply: Any, delivery: Delivery, node: int) -> None:
    """Compare a reply's metadata with the message: a site may choose nothing in it but its time.

    Args:
        reply: Flower's message.
        delivery: The message that it answers.
        node: The site's node.

    Raises:
        Refusal: 400 or 403: they do not fit.
    """
    got = reply.metadata
    if (got.src_node_id, got.dst_node_id) != (node, SERVER_NODE):
        raise Refusal(403, "a message in the name of another node")
    tasks = [getattr(got, name) if got.HasField(name) else None for name in ("src_task_id", "dst_task_id")]
    if (got.message_type, got.group_id, tasks) != (
        delivery.message_type,
        delivery.group_id,
        [delivery.dst_task_id, delivery.src_task_id],
    ):
        raise Refusal(403, "a reply that does not fit its message")
    if not 0 < got.created_at < math.inf or not 0 < got.ttl <= delivery.expires - got.created_at + _TTL_TOLERANCE_S:
        raise Refusal(403, "a reply that lives longer than its message")
    check_hash(got.message_id)
    if len(reply.error.reason) > _LONGEST_REASON:
        raise Refusal(403, "an error that is too long")


def names_of(tree: ObjectTree, most: int | None = None) -> set[str]:
    """Return the names of a tree's objects.

    Raises:
        Refusal: A name is no hash, or there are more than `most` objects.
    """
    names, left, count = set[str](), [tree], 0
    while left:
        part, count = left.pop(), count + 1
        if most is not None and count > most:
            raise Refusal(403, "a reply of more objects than the egress list allows")
        check_hash(part.object_id)
        names.add(part.object_id)
        left.extend(part.children)
    return names
