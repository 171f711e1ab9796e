"""Reads what a message of the coordinator asks for, before the SuperNode gets any of it.

Every object is named by the SHA-256 of its bytes, so a message's id fixes its whole content. The filter reads the few
small objects that describe the order, and hands over exactly these bytes.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable

from flwr.app import ConfigRecord, RecordDict
from flwr.app.message.message import Message
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.inflatable.inflatable_object import get_object_body, get_object_children_ids_from_object_content

from cdtl_core.config import schema
from cdtl_core.config.schema import parsed
from cdtl_core.deploy.egress_filter.asks import Ask
from cdtl_core.errors import FederationError, PrivacyError
from cdtl_core.federation.limits import Order, order_digest

__all__ = ["COUNTED", "NotThereError", "Pull", "read_order"]

COUNTED = ("train", "evaluate")
"""Message types whose number is limited; the others are introductions."""
Pull = Callable[[str], Awaitable[bytes]]
_MOST_BYTES = 1024 * 1024
_HASH = re.compile(r"[0-9a-f]{64}")
_SAME = ("run_id", "src_node_id", "dst_node_id", "group_id", "message_type", "created_at", "ttl")


class NotThereError(Exception):
    """An object of a message has not arrived; this says nothing about the message."""


async def read_order(ask: Ask, root: str, pull: Pull) -> Order | None:
    """Return the order in a message; None for one that only asks for the site's introduction.

    Args:
        ask: The message as it was announced.
        root: The object that it was announced with.
        pull: Gets an object's bytes by its id.

    Raises:
        NotThereError: `pull` raised it.
        PrivacyError: The message is not what it was announced as, or cannot be read.
    """
    try:
        return await _read(ask, root, pull)
    except (PrivacyError, NotThereError):
        raise
    except FederationError as error:
        raise PrivacyError(str(error)) from None
    except Exception as error:  # Flower raises many kinds of errors for malformed objects
        raise PrivacyError(f"a message cannot be read ({type(error).__name__}): it is refused.") from None


async def _read(ask: Ask, root: str, pull: Pull) -> Order | None:
    if root != ask.message_id:
        raise PrivacyError("a message's announced content differs from its real content: it is refused.")
    content = await _object(root, pull)
    metadata = ProtoMessage.FromString(get_object_body(content, Message)).metadata
    if any(getattr(metadata, name) != getattr(ask, name) for name in _SAME):
        raise PrivacyError("a message's announced metadata differs from its real metadata: it is refused.")
    if ask.message_type not in COUNTED:
        return None
    (child,) = get_object_children_ids_from_object_content(content)
    records = await _object(child, pull)
    ids = {str(name): str(value) for name, value in json.loads(get_object_body(records, RecordDict)).items()}
    order = parsed(schema.Order, ConfigRecord.inflate(await _object(ids["order"], pull)))
    if ask.group_id != str(order.round):
        raise PrivacyError("an order's announced round differs from its real round: it is refused.")
    found = {"round": order.round, "initial_weights_hash": order.initial_weights_hash, "digest": order_digest(ids)}
    return Order.model_validate({"kind": ask.message_type, **found})


async def _object(name: str, pull: Pull) -> bytes:
    """Return an object's bytes, after a check of their hash."""
    if not _HASH.fullmatch(name):
        raise PrivacyError("a message names an object by an invalid hash: it is refused.")
    content = await pull(name)
    if len(content) > _MOST_BYTES or hashlib.sha256(content).hexdigest() != name:
        raise PrivacyError("an object of a message is too long or does not match its name: it is refused.")
    return content
