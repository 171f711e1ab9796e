"""Common rules of our HTTP servers: known routes and headers only, limits of size and time, and fixed status codes.

A SuperNode acts on the status: it retries 502, 503 and 504 forever, exits at 401, drops the message at 403, and ends
its loop at anything else. Therefore temporary problems get 503, and problems that a person must fix get 401.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.requests import ClientDisconnect, Request

__all__ = [
    "FLEET_ROUTES",
    "REQUEST_HEADERS",
    "Refusal",
    "check_head",
    "drain",
    "read_body",
]

_SMALL: Final = 64 * 1024
_TREE: Final = 1024 * 1024  # names of a reply's objects, 70 bytes each
_OBJECT: Final = 8 * 1024 * 1024  # Flower cuts objects into chunks of at most 5 MiB

# register-node is missing on purpose: keys are registered on the SuperLink's own machine
FLEET_ROUTES: Final[Mapping[str, int]] = {
    "activate-node": _SMALL,
    "deactivate-node": _SMALL,
    "send-node-heartbeat": _SMALL,
    "pull-messages": _SMALL,
    "push-messages": _TREE,
    "push-object": _OBJECT,
    "pull-object": _SMALL,
    "confirm-message-received": _SMALL,
    "get-run": _SMALL,
    "get-fab": _SMALL,
}
"""Route to the largest body of a request, in bytes."""

REQUEST_HEADERS: Final = (
    "accept",
    "content-type",
    "flwr-component-name",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-public-key",
    "flwr-signature",
    "flwr-timestamp",
)


class Refusal(Exception):  # noqa: N818
    """A refused request.

    Attributes:
        status: HTTP status of the answer.
        reason: For the log; the caller gets the part before the first colon.
        retry_after: Seconds to wait, or None.
        media_type: Media type of the answer.
    """

    media_type = "text/plain"

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    @property
    def told(self) -> str:
        """The text for the caller; the details are for the log."""
        return self.reason.split(":")[0]


def check_head(request: Request) -> None:
    """Refuse an ambiguous head, with both Content-Length and Transfer-Encoding.

    Raises:
        Refusal: 400.
    """
    if "content-length" in request.headers and "transfer-encoding" in request.headers:
        raise Refusal(400, "Content-Length and Transfer-Encoding in one request")


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """Return the whole body.

    Args:
        request: The request.
        limit: Most bytes.
        seconds: Most seconds.

    Raises:
        Refusal: 413 too large, or 503 too slow.
        ClientDisconnect: The client disconnected.
    """
    if int(request.headers.get("content-length", "0")) > limit:
        raise Refusal(413, f"too large: more than {limit} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            await _read(request, limit, body)
    except TimeoutError:
        raise Refusal(503, f"slow: the body did not arrive within {seconds:g} s") from None
    return bytes(body)


async def drain(request: Request, limit: int, seconds: float) -> None:
    """Read and discard the rest of a refused body, within limits, so that the client receives the answer.

    Args:
        request: The request.
        limit: Most bytes.
        seconds: Most seconds.
    """
    try:
        async with asyncio.timeout(seconds):
            await _read(request, limit, None)
    except (Refusal, ClientDisconnect, TimeoutError):
        pass


async def _read(request: Request, limit: int, into: bytearray | None) -> None:
    seen, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        seen += len(chunk)
        if seen > limit:
            raise Refusal(413, f"too large: more than {limit} bytes")
        if into is not None:
            into += chunk
