"""The coordinator's only public port: TLS, and behind it the fleet app.

Start it with ``python -m cdtl_core.deploy.gateway CONFIG.json``, a `GatewayConfig`; it stops on SIGTERM.
"""

import signal
import socket
import ssl
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import httpx
import uvicorn

from cdtl_core.deploy.access_log import AccessLog
from cdtl_core.deploy.connection import Entrance
from cdtl_core.deploy.fleet import Fleet
from cdtl_core.deploy.gateway_config import GatewayConfig, load_gateway_config, open_listener
from cdtl_core.deploy.members import MemberBook
from cdtl_core.deploy.tls import PinnedClients, ServerCertificate, server_context
from cdtl_core.errors import CdtlError, ConfigError
from cdtl_core.foreign import get_logger, log_to_stderr

__all__ = ["main", "open_gateway", "serve"]

_log = get_logger(__name__)
_HEAD_BYTES = 16 * 1024


def open_gateway(config: GatewayConfig) -> tuple[uvicorn.Server, socket.socket]:
    """A server that has yet to run, and its socket, which listens already.

    Raises:
        ConfigError: The port is taken, or a certificate or the log cannot be used.
    """
    book, log = MemberBook(config.folder), AccessLog(config.folder)
    context = server_context(config.certificate, config.key)
    clients = PinnedClients(context, book, ServerCertificate(context, config.certificate, config.key))
    entrance = Entrance(
        clients=clients,
        refused=lambda address, reason: log.write(client=address, refused=reason),
        most=config.limits.connections,
        most_of_one=config.limits.connections_of_address,
        handshake_s=config.limits.handshake_s,
        request_head_s=config.limits.request_head_s,
    )
    fleet = Fleet(config, book, log, _upstream(config))
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
            timeout_keep_alive=config.limits.keep_alive_s,
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
    """Run the gateway of one configuration file; the exit code."""
    log_to_stderr("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again once it has stopped
    try:
        serve(load_gateway_config(Path(arguments[0])) if len(arguments) == 1 else _usage())
    except CdtlError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def _usage() -> GatewayConfig:
    raise ConfigError("the gateway takes one argument: give the path of its configuration, a JSON file.")


def _public(config: GatewayConfig) -> socket.socket:
    if config.listener is not None:
        return socket.socket(fileno=config.listener)
    return open_listener(config.host, config.port)


def _upstream(config: GatewayConfig) -> httpx.AsyncClient:
    try:
        trusted = ssl.create_default_context(cafile=config.authority)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"the authority {config.authority} cannot be read ({error}): restore it.") from None
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{config.upstream_port}",
        verify=trusted,
        trust_env=False,
        timeout=httpx.Timeout(config.limits.upstream_s, connect=3, pool=10),
        # The SuperLink hangs up after 5 s of silence: we do so first, or a request would meet a closed door.
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=2),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
