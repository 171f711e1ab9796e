"""The coordinator's only public port: TLS, with the fleet app behind it.

Start it with ``python -m cdtl_core.deploy.gateway CONFIG.json``, a `GatewayConfig`. It stops on SIGTERM.
"""

import logging
import resource
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import uvicorn

from cdtl_core.deploy.access_log import AccessLog
from cdtl_core.deploy.connection import Entrance
from cdtl_core.deploy.fleet import Fleet
from cdtl_core.deploy.gateway_config import GatewayConfig, load_gateway_config, open_listener
from cdtl_core.deploy.lane import Lane
from cdtl_core.deploy.link_client import LinkClient
from cdtl_core.deploy.members import MemberBook
from cdtl_core.deploy.rate import RateLimit
from cdtl_core.deploy.tls import PinnedClients, ServerCertificate, server_context
from cdtl_core.errors import CdtlError, ConfigError
from cdtl_core.system.foreign import get_logger, log_to_stderr

__all__ = ["main", "open_gateway", "serve"]

_log = get_logger(__name__)
_HEAD_BYTES = 16 * 1024


def open_gateway(config: GatewayConfig) -> tuple[uvicorn.Server, socket.socket]:
    """Return a server that is not running yet, and its socket, which already listens.

    Raises:
        ConfigError: The port is taken, or a certificate or the log cannot be used.
    """
    book, log, limits = MemberBook(config.folder), AccessLog(config.folder), config.limits
    context = server_context(config.certificate, config.key)
    clients = PinnedClients(context, book, ServerCertificate(context, config.certificate, config.key))
    entrance = Entrance(
        clients=clients,
        site_of=book.site_of,
        refused=lambda address, reason: log.write(client=address, refused=reason),
        starting=Lane(limits.handshakes, limits.handshakes),
        strangers=Lane(limits.connections, limits.connections_of_address),
        members=Lane(sys.maxsize, limits.connections_of_site),
        handshakes=RateLimit(limits.handshakes_per_minute_of_address),
        handshake_s=limits.handshake_s,
        request_head_s=limits.request_head_s,
    )
    fleet = Fleet(config, book, log, LinkClient(config))
    server = uvicorn.Server(
        uvicorn.Config(
            fleet.app(),
            http=cast(Any, entrance.protocol),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=limits.keep_alive_s,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
    )
    listener = _public(config)
    try:
        log.open()
    except ConfigError:
        listener.close()
        raise
    return server, listener


def serve(config: GatewayConfig) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigError: The port is taken, or a certificate or the log cannot be used.
    """
    server, listener = open_gateway(config)
    _log.info("gateway on %s port %d, SuperLink on port %d", config.host, config.port, config.upstream_port)
    with ExitStack() as sockets:
        open_ones = [sockets.enter_context(listener)]
        if config.probe_port:
            open_ones.append(sockets.enter_context(open_listener("127.0.0.1", config.probe_port)))
        server.run(sockets=open_ones)


def main(arguments: list[str]) -> int:
    """Run the gateway of a configuration file; return the exit code."""
    log_to_stderr("%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # strangers could fill the disk with its warnings
    _allow_many_files()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after it has stopped
    try:
        serve(load_gateway_config(Path(arguments[0])) if len(arguments) == 1 else _usage())
    except CdtlError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def _allow_many_files() -> None:
    """Raise the limit of open files; the usual 1024 is below the number of connections in all lanes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _usage() -> GatewayConfig:
    raise ConfigError("the gateway takes one argument: give the path of its configuration, a JSON file.")


def _public(config: GatewayConfig) -> socket.socket:
    if config.listener is not None:
        return socket.socket(fileno=config.listener)
    return open_listener(config.host, config.port)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
