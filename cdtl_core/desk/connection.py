"""A connection to a desk: when many are open, the one that has waited longest for its program makes room.

Any account of this machine can open connections to the port of a desk and send nothing. Without this, some dozen of
them would keep the person at the desk out, who may have to withdraw an approval at once.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["ACCEPTED_AT_ONCE", "MOST_OPEN", "Connection"]

MOST_OPEN = 128
"""Open connections; a browser uses six."""
ACCEPTED_AT_ONCE = 32
"""Connections that are accepted before those that are open are read: a flood of new ones closes no one that asks."""


class Connection(H11Protocol):
    """An HTTP connection of uvicorn that can be closed while it waits for its client."""

    opened_at: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection; one that waits is closed if there are too many."""
        self.opened_at = self.loop.time()
        super().connection_made(transport)
        if len(self.connections) > MOST_OPEN:
            others: list[Any] = [one for one in self.connections if one is not self]
            waiting = [one for one in others if isinstance(one, Connection) and one.waits_for_client]
            if waiting:
                oldest = min(waiting, key=lambda one: one.opened_at)
                self.connections.discard(oldest)  # it counts until the loop has closed it
                oldest.transport.abort()

    @property
    def waits_for_client(self) -> bool:
        """Whether the client has to send or to read something before the desk can do more."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused
