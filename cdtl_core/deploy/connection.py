"""A connection to the gateway: rate limits, TLS handshake, client certificate and time limits.

uvicorn can do TLS itself, but then a failed handshake is not logged, takes up to a minute, and the app does not see the
client certificate. Therefore uvicorn listens without TLS and each connection starts TLS here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cdtl_core.deploy.lane import Lane
from cdtl_core.deploy.rate import RateLimit
from cdtl_core.deploy.tls import PinnedClients, client_key, handshake_fault

__all__ = ["Entrance", "SiteConnection", "TlsStart"]


@dataclass
class Entrance:
    """State shared by all connections: open connections and their limits.

    A connection begins in the lane `starting`. After the handshake it moves to the lane of its member or of the
    strangers. Therefore strangers can fill their own lane and the first one, but never take a member's place.

    Attributes:
        clients: The TLS context.
        site_of: From a client key's fingerprint to its site; None for strangers and revoked sites.
        refused: Called with an address and the reason for each connection that never became a request.
        starting: Connections before the end of the handshake, by address.
        strangers: Connections without a member's certificate, by address.
        members: Connections of members, by site.
        handshakes: Rate limit per address, for addresses without a connected member.
        handshake_s: Longest TLS handshake.
        request_head_s: Longest wait for a request's head, from the opening or from its first byte.
    """

    clients: PinnedClients
    site_of: Callable[[str | None], str | None]
    refused: Callable[[str, str], None]
    starting: Lane
    strangers: Lane
    members: Lane
    handshakes: RateLimit
    handshake_s: float
    request_head_s: float
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    of_members: Counter[str] = field(default_factory=Counter)

    def protocol(self, **arguments: Any) -> "TlsStart":
        """Return the protocol of a new connection; uvicorn calls this instead of a protocol class."""
        return TlsStart(self, SiteConnection(self, **arguments))

    def too_often(self, address: str) -> bool:
        """Whether an address starts too many handshakes; never true for an address with a connected member."""
        return address not in self.of_members and self.handshakes.wait(address) > 0


class TlsStart(asyncio.Protocol):
    """A new TCP connection that starts TLS and becomes a `SiteConnection`, or is refused."""

    def __init__(self, entrance: Entrance, connection: "SiteConnection") -> None:
        self._entrance = entrance
        self._connection = connection
        self._address = "?"
        self._transport: asyncio.Transport | None = None
        self._known: set[Any] = connection.connections  # uvicorn's set, which it shuts down when it stops

    def shutdown(self) -> None:
        """Close the connection when the gateway stops; called by uvicorn."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start TLS, unless this address exceeds its rate limit."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else "?"
        if self._entrance.too_often(self._address):
            self._entrance.refused(self._address, "too many connections")
            transport.abort()
            return
        loser = self._entrance.starting.enter(self._address, self, transport.abort)
        if loser is not None:
            self._entrance.refused(loser, "too many connections")
        self._transport = transport
        self._known.add(self)
        task = asyncio.get_running_loop().create_task(self._start(transport))
        self._entrance.tasks.add(task)
        task.add_done_callback(self._entrance.tasks.discard)

    async def _start(self, transport: asyncio.Transport) -> None:
        error: BaseException | None = None
        secured: asyncio.Transport | None = None
        try:
            if transport.is_closing():  # start_tls would wait forever on a lost connection
                raise ConnectionResetError
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
            self._entrance.starting.leave(self._address, self)
            self._known.discard(self)
        if secured is None or self._connection.lost:
            self._entrance.refused(self._address, handshake_fault(error))
            return
        self._connection.address = self._address
        self._connection.connection_made(secured)


class SiteConnection(H11Protocol):
    """HTTP/1.1 over TLS.

    `request.state.client_key` is the fingerprint of the client certificate's key, or None; `request.state.stranger`
    says that this is not the key of a site that is admitted.
    """

    def __init__(self, entrance: Entrance, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._entrance = entrance
        self._head_timer: asyncio.TimerHandle | None = None
        self._early = b""
        self._site: str | None = None
        self.address = "?"
        self.lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the peer's certificate, and wait for the first request."""
        super().connection_made(transport)
        key = client_key(transport.get_extra_info("ssl_object"))
        self._site = self._entrance.site_of(key)
        self.app_state = {**self.app_state, "client_key": key, "stranger": self._site is None}
        self._enter(transport)
        self._watch_head()
        if self._early:
            self.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request; a head must end in time once it has begun."""
        if self.transport is None:  # Python 3.11 delivers data that came with the handshake before start_tls returns
            self._early += data
            return
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the connection's place."""
        self.lost = True
        if self.transport is None:  # lost at the moment the handshake ended
            return
        self._forget_timer()
        self._leave()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection when the gateway stops: a request in progress may end, an idle peer is disconnected."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP or whose head is too large; an answer that has begun is cut off."""
        self._entrance.refused(self.address, "no HTTP, or a head too large")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _enter(self, transport: asyncio.Transport) -> None:
        if self._site is None:
            loser = self._entrance.strangers.enter(self.address, self, transport.abort)
        else:
            self._entrance.of_members[self.address] += 1
            loser = self._entrance.members.enter(self._site, self, transport.abort)
        if loser is not None:
            self._entrance.refused(loser if self._site is None else self.address, "too many connections")

    def _leave(self) -> None:
        if self._site is None:
            self._entrance.strangers.leave(self.address, self)
            return
        self._entrance.members.leave(self._site, self)
        self._entrance.of_members[self.address] -= 1
        if self._entrance.of_members[self.address] <= 0:
            del self._entrance.of_members[self.address]

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
