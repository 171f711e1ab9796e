"""What every door of ours does: known routes and headers pass, bodies end in size and time, failures have one code.

A SuperNode's fate hangs on the status: 502, 503 and 504 it tries again for ever, 401 makes it exit, 403 drops the
message in silence, all else ends its loop. So what passes by itself is answered 503, what a person must mend 401.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

__all__ = [
    "FLEET_ROUTES",
    "REQUEST_HEADERS",
    "RESPONSE_HEADERS",
    "Refusal",
    "bounded_body",
    "check_length",
    "drain",
    "forward",
]

_SMALL: Final = 64 * 1024
_OBJECT: Final = 8 * 1024 * 1024  # Flower cuts objects into chunks of at most 5 MiB

# register-node is absent on purpose: keys are registered on the SuperLink's own machine.
FLEET_ROUTES: Final[Mapping[str, int]] = {
    "activate-node": _SMALL,
    "deactivate-node": _SMALL,
    "send-node-heartbeat": _SMALL,
    "pull-messages": _SMALL,
    "push-messages": _OBJECT,
    "push-object": _OBJECT,
    "pull-object": _SMALL,
    "confirm-message-received": _SMALL,
    "get-run": _SMALL,
    "get-fab": _SMALL,
}
"""Route to most bytes of a request's body."""

REQUEST_HEADERS: Final = (
    "accept",
    "content-length",
    "content-type",
    "flwr-component-name",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-public-key",
    "flwr-signature",
    "flwr-timestamp",
)
RESPONSE_HEADERS: Final = ("content-length", "content-type")


class Refusal(Exception):  # noqa: N818
    """A request goes no further.

    Attributes:
        status: Of the answer.
        reason: In words, for the log; the caller is told what stands before the first colon.
        retry_after: Seconds to wait, or None.
    """

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


async def bounded_body(request: Request, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """The body as it arrives; at most `limit` bytes, the last of them within `seconds` of the first look.

    Raises:
        Refusal: 413 too large, or 503 too slow.
        ClientDisconnect: The peer went away.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    seen, more = 0, True
    while more:
        try:
            async with asyncio.timeout_at(deadline):
                message = await request.receive()
        except TimeoutError:
            raise Refusal(503, f"slow: the body did not arrive within {seconds:g} s") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        seen += len(chunk)
        if seen > limit:
            raise Refusal(413, f"too large: more than {limit} bytes")
        yield chunk


async def drain(request: Request, limit: int, seconds: float) -> None:
    """Read and forget the rest of a refused body, within bounds, so that the peer lives to read the answer."""
    try:
        async for _ in bounded_body(request, limit, seconds):
            pass
    except (Refusal, ClientDisconnect):
        pass


def check_length(request: Request, limit: int) -> None:
    """Refuse a body that announces itself as too large before a byte of it is read.

    Raises:
        Refusal: 413.
    """
    if int(request.headers.get("content-length", "0")) > limit:
        raise Refusal(413, f"too large: more than {limit} bytes")


async def forward(client: httpx.AsyncClient, request: Request, url: str, limit: int, seconds: float) -> Response:
    """Send a request on, with the allowed headers only, and hand back the answer as it comes.

    Raises:
        Refusal: The body is too large or too slow, or the other side cannot answer (502, 503, 504).
        ClientDisconnect: The peer went away.
    """
    check_length(request, limit)
    body = bounded_body(request, limit, seconds)
    # Built by hand: the client would add headers of its own.
    onward = httpx.Request("POST", client.base_url.join(url), headers=_only(REQUEST_HEADERS, request), content=body)
    onward.extensions["timeout"] = client.timeout.as_dict()
    try:
        answer = await client.send(onward, stream=True)
    except httpx.HTTPError as error:
        raise _upstream_refusal(error) from None
    return StreamingResponse(_relay(answer), answer.status_code, _only(RESPONSE_HEADERS, answer))


async def _relay(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        raise _upstream_refusal(error) from None
    finally:
        await asyncio.shield(answer.aclose())


def _upstream_refusal(error: httpx.HTTPError) -> Refusal:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return Refusal(503, f"upstream down: {type(error).__name__}", retry_after=2)
    if isinstance(error, httpx.TimeoutException):
        return Refusal(504, f"upstream slow: {type(error).__name__}")
    return Refusal(502, f"upstream broke off: {type(error).__name__}")


def _only(names: tuple[str, ...], carrier: Request | httpx.Response) -> dict[str, str]:
    return {name: carrier.headers[name] for name in names if name in carrier.headers}
