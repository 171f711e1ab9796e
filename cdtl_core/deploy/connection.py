"""One connection to the gateway: counted, shaken hands with, its client certificate read, its idle waiting bounded.

uvicorn can do TLS itself, but then a failed handshake leaves no trace, takes up to a minute, and the certificate that
the client showed is not told to the app. So uvicorn listens in plain and each connection starts TLS here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cdtl_core.deploy.tls import PinnedClients, client_key, handshake_fault

__all__ = ["Entrance", "SiteConnection", "TlsStart"]


@dataclass
class Entrance:
    """What all connections share.

    Attributes:
        clients: The TLS context.
        refused: Called with an address and the reason for each connection that never became a request.
        most: Connections at a time, of all addresses.
        most_of_one: Connections at a time, of one address.
        handshake_s: Time for the TLS handshake.
        request_head_s: Time for a request's head, from the opening or from its first byte.
    """

    clients: PinnedClients
    refused: Callable[[str, str], None]
    most: int
    most_of_one: int
    handshake_s: float
    request_head_s: float
    open: Counter[str] = field(default_factory=Counter)
    starting: set[asyncio.Task[None]] = field(default_factory=set)

    def protocol(self, **arguments: Any) -> "TlsStart":
        """What uvicorn calls for each connection, in the place of a protocol class."""
        return TlsStart(self, SiteConnection(self, **arguments))

    def full_for(self, address: str) -> bool:
        """Whether one more connection of this address is too many."""
        return self.open.total() >= self.most or self.open[address] >= self.most_of_one

    def left(self, address: str) -> None:
        """A connection of this address is over."""
        self.open[address] -= 1
        if self.open[address] <= 0:
            del self.open[address]


class TlsStart(asyncio.Protocol):
    """A fresh TCP connection: becomes a `SiteConnection` over TLS, or is refused by address and reason."""

    def __init__(self, entrance: Entrance, connection: "SiteConnection") -> None:
        self._entrance = entrance
        self._connection = connection
        self._address = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start TLS, unless there are too many already."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else "?"
        if self._entrance.full_for(self._address):
            self._entrance.refused(self._address, "too many connections")
            transport.abort()
            return
        self._entrance.open[self._address] += 1
        task = asyncio.get_running_loop().create_task(self._start(transport))
        self._entrance.starting.add(task)
        task.add_done_callback(self._entrance.starting.discard)

    async def _start(self, transport: asyncio.Transport) -> None:
        error: BaseException | None = None
        secured: asyncio.Transport | None = None
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self._connection,
                self._entrance.clients.refresh(),
                server_side=True,
                ssl_handshake_timeout=self._entrance.handshake_s,
                ssl_shutdown_timeout=self._entrance.handshake_s,
            )
        except OSError as failure:  # ssl.SSLError is one
            error = failure
        finally:
            if secured is None:
                self._entrance.left(self._address)
        if secured is None:
            self._entrance.refused(self._address, handshake_fault(error))
            return
        self._connection.address = self._address
        self._connection.connection_made(secured)


class SiteConnection(H11Protocol):
    """HTTP/1.1 over TLS; `request.state.client_key` is the fingerprint of the client certificate's key, or None."""

    def __init__(self, entrance: Entrance, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._entrance = entrance
        self._head_timer: asyncio.TimerHandle | None = None
        self._early = b""
        self.address = "?"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the peer's certificate, and wait for the first request."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "client_key": client_key(transport.get_extra_info("ssl_object"))}
        self._watch_head()
        if self._early:
            self.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request; a head that has begun must end in time."""
        if self.transport is None:  # Python 3.11 hands over data that came with the handshake before start_tls is done
            self._early += data
            return
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make place for another."""
        if self.transport is None:  # lost in the very moment that the handshake ended
            return
        self._forget_timer()
        self._entrance.left(self.address)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The gateway stops: a request under way may end, an idle peer is not waited for."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP, or its head is too large."""
        self._entrance.refused(self.address, "no HTTP, or a head too large")
        super().send_400_response(msg)

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._entrance.request_head_s, self._too_slow)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._entrance.refused(self.address, f"slow: no request within {self._entrance.request_head_s:g} s")
            self.transport.abort()
