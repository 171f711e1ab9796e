"""Requests of a SuperNode to the coordinator, rebuilt from the fields that Flower knows; nothing else passes."""

import re
from typing import Any

from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from google.protobuf.message import DecodeError

from cdtl_core.errors import PrivacyError

__all__ = ["FORWARDED", "MAX_REQUEST", "rebuilt"]

FORWARDED: dict[str, Any] = {
    "activate-node": ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "pull-messages": PullMessagesRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
    "get-run": GetRunRequest,
    "get-fab": GetFabRequest,
}
MAX_REQUEST = 8 * 1024 * 1024
_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_KEY = 256


def rebuilt(name: str, body: bytes) -> Any:
    """Rebuild the request of a path from known fields; its texts are SHA-256 hashes, its bytes a public key.

    Raises:
        PrivacyError: It holds anything else.
    """
    try:
        request = FORWARDED[name].FromString(body)
    except DecodeError:
        raise PrivacyError(f"a request {name} is not a message of Flower: nothing of it leaves.") from None
    request.DiscardUnknownFields()
    for field, value in request.ListFields():
        values = [value] if isinstance(value, str | bytes) else value if field.type == field.TYPE_STRING else []
        if not all(_harmless(one) for one in values):
            raise PrivacyError(f"{field.name} in a request {name} is not as Flower sends it: nothing of it leaves.")
    return request


def _harmless(value: str | bytes) -> bool:
    return len(value) <= _MAX_KEY if isinstance(value, bytes) else bool(_HASH.fullmatch(value))
