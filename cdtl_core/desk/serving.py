"""Serve a desk on loopback until Ctrl-C; a person who can type into its terminal gets further links."""

import asyncio
import html
import logging
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cdtl_core.desk.desk import Desk
from cdtl_core.desk.doors import LINK_S, Doors
from cdtl_core.errors import ConfigError
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.scratch import scratch_folder

__all__ = ["MOST_OPEN", "desk_server", "serve_desk"]


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


_HEAD_BYTES = 16 * 1024


def serve_desk(
    make: Callable[[int, Doors], Desk], *, port: int, minutes: float, open_browser: bool, tell: Callable[[str], None]
) -> None:
    """Serve a desk until SIGINT or SIGTERM.

    Args:
        make: Returns the desk for a port and its doors.
        port: Port on 127.0.0.1; 0: a free one.
        minutes: Minutes without use after which a session ends.
        open_browser: Open the link in this machine's browser.
        tell: Gets the lines for the terminal.

    Raises:
        ConfigError: The port cannot be opened.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(_listener(port))
        desk = make(listener.getsockname()[1], Doors(minutes * 60.0))
        server = desk_server(desk)
        link = desk.link()
        tell(f"{desk.name}: open this link, once, within {LINK_S / 60:.0f} minutes. Ctrl-C ends the desk.\n  {link}")
        tell("Press Enter for another link.")
        if open_browser:
            _open(link, stack.enter_context(scratch_folder("desk-")))
        threading.Thread(target=_give_links, args=(desk, tell), daemon=True).start()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after it has stopped
        server.run(sockets=[listener])


def desk_server(desk: Desk) -> uvicorn.Server:
    """Return a server for a desk, which is not running yet."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the desk logs its faults itself
    return uvicorn.Server(
        uvicorn.Config(
            desk.app(),
            http=Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,  # addresses hold the token of a link
            proxy_headers=False,
            server_header=False,
            backlog=ACCEPTED_AT_ONCE,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
    )


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port), backlog=ACCEPTED_AT_ONCE)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]
        raise ConfigError(
            f"port {port} on this machine cannot be opened ({why}): choose another with --port."
        ) from None


def _open(link: str, folder: Path) -> None:
    """Open a link by a file that only this account can read: other accounts can read the arguments of a browser."""
    page = folder / "open.html"
    target = html.escape(link)
    text = f'<!doctype html><meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Open the desk</a>'
    replace_bytes(page, text.encode(), mode=0o600)
    webbrowser.open(page.as_uri())


def _give_links(desk: Desk, tell: Callable[[str], None]) -> None:
    """Print a new link for each line that is typed; without a terminal there is none."""
    with suppress(OSError, ValueError):
        if hasattr(signal, "pthread_sigmask"):  # a job in the background must not stop because it reads its terminal
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN})
        for _ in sys.stdin:
            tell(f"  {desk.link()}")
