"""The gateway's calls to the SuperLink: whole requests and answers over a connection pool that cannot leak.

httpx's pool counts a connection once it is assigned to a request. If that request is cancelled before it begins (its
peer disconnected, or it waited too long for a place), the connection stays assigned forever and its place is lost.
After enough of these the pool is full. Therefore a call is never cancelled here once it has a place, and places are
counted before the pool: a request that is no longer needed leaves our queue, not httpx's.
"""

import asyncio
import contextlib
import ssl
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from cdtl_core.deploy.door import Refusal
from cdtl_core.deploy.gateway_config import GatewayConfig
from cdtl_core.errors import ConfigError

__all__ = ["Answer", "LinkClient"]

_PROBE_EVERY_S, _PROBE_S, _FRESH_S = 1.0, 3.0, 10.0


@dataclass(frozen=True)
class Answer:
    """An answer of the SuperLink."""

    status: int
    content: bytes
    media_type: str | None


class LinkClient:
    """Calls the SuperLink for members, a few at a time for each, and monitors its health.

    Raises:
        ConfigError: The authority's certificate cannot be read.
    """

    def __init__(self, config: GatewayConfig) -> None:
        try:
            trusted = ssl.create_default_context(cafile=config.authority)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"the authority {config.authority} cannot be read ({error}): restore it.") from None
        self._client = httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{config.upstream_port}",
            verify=trusted,
            trust_env=False,
            timeout=httpx.Timeout(config.limits.upstream_s, connect=3),
            # the SuperLink closes after 5 s of silence; closing first avoids requests on a closed connection
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=2),
        )
        most = config.limits.calls_of_site
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(most))
        self._places = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(most))
        self._calls: set[asyncio.Task[Answer | Refusal]] = set()
        self._answered_at = -_FRESH_S

    @property
    def healthy(self) -> bool:
        """Whether the SuperLink answered its last probe, a moment ago."""
        return time.monotonic() - self._answered_at < _FRESH_S

    def turn(self, site: str) -> asyncio.Semaphore:
        """Hold it while a request of the site is read and answered: it limits the memory that one site takes."""
        return self._turns[site]

    async def call(self, site: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST for a site; waits for one of the site's places first.

        Args:
            site: The site.
            path: The route.
            body: The request.
            headers: Its headers.

        Raises:
            Refusal: 502, 503 or 504: the SuperLink cannot answer.
        """
        place = self._places[site]
        await place.acquire()
        call = asyncio.create_task(self._send(path, body, headers))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(lambda _: place.release())
        answer = await asyncio.shield(call)  # the caller may disconnect; the call ends by itself
        if isinstance(answer, Refusal):
            raise answer
        return answer

    async def watch(self) -> None:
        """Check the SuperLink's health once a second until cancelled; ``/health`` reports the last result."""
        while True:
            probe = asyncio.create_task(self._probe())
            await asyncio.shield(probe)
            await asyncio.sleep(_PROBE_EVERY_S)

    async def close(self) -> None:
        """Close the connections; calls in progress are given up."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._client.aclose()

    async def _send(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer | Refusal:
        # built by hand: the client would add its own headers
        url = self._client.base_url.join(path)
        request = httpx.Request("POST", url, headers={**headers, "content-length": str(len(body))}, content=body)
        request.extensions["timeout"] = self._client.timeout.as_dict()
        try:
            answer = await self._begun(request)
            try:
                content = await answer.aread()
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            return _refusal(error)
        return Answer(answer.status_code, content, answer.headers.get("content-type"))

    async def _begun(self, request: httpx.Request) -> httpx.Response:
        """Return an answer whose body has not been read.

        On a busy machine the SuperLink may close a kept connection before this gateway does. Then no answer begins, and
        the request is sent once more, as the site itself would do after a 502.
        """
        try:
            return await self._client.send(request, stream=True)
        except httpx.RemoteProtocolError:
            return await self._client.send(request, stream=True)

    async def _probe(self) -> None:
        answer = None
        with contextlib.suppress(httpx.HTTPError):
            answer = await self._client.get("/health", timeout=_PROBE_S)
        self._answered_at = time.monotonic() if answer is not None and answer.is_success else -_FRESH_S


def _refusal(error: httpx.HTTPError) -> Refusal:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Refusal(503, f"upstream down: {type(error).__name__}", retry_after=2)
    if isinstance(error, httpx.TimeoutException):
        return Refusal(504, f"upstream slow: {type(error).__name__}")
    return Refusal(502, f"upstream broke off: {type(error).__name__}")
