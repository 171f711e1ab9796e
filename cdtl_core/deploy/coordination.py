"""The coordinator's service: it keeps SuperLink, gateway, list of sites and runs going until it is stopped.

All programs run behind an open `Front`. If that is isolated, they share a network only with each other.
"""

import http.client
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path

from cdtl_core.deploy.database import condemn_database
from cdtl_core.deploy.expiry import DailyNotices, coordinator_notices
from cdtl_core.deploy.front import Front
from cdtl_core.deploy.gateway_config import GatewayConfig, load_gateway_config
from cdtl_core.deploy.members import Member, MemberBook
from cdtl_core.deploy.run_keeper import RunKeeper
from cdtl_core.deploy.service import Troubles
from cdtl_core.deploy.superlink import SuperLink, open_superlink, register_sites, start_superlink
from cdtl_core.deploy.unit import Unit
from cdtl_core.errors import CdtlError, FederationError
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.processes import ProcessGroup, free_port

__all__ = ["gateway_answers", "serve_coordinator"]


_PATIENCE_S = 5.0
_HEALTHY, _UNAVAILABLE = 200, 503


def gateway_answers(config: GatewayConfig) -> bool:
    """Return whether a gateway forwards requests.

    It does if it reports a healthy SuperLink, because it checks that over the connections that carry the sites'
    requests. If it reports an unhealthy one, it still works if the SuperLink really does not answer.

    Args:
        config: The gateway's configuration, with a `probe_port` or its own port on 127.0.0.1.
    """
    said = _health(config.probe_port or config.port)
    return said == _HEALTHY or (said == _UNAVAILABLE and _health(config.upstream_port) != _HEALTHY)


def _health(port: int) -> int:
    """Return the status of ``/health``; 0 without an answer. Only the status is used, and nothing secret is sent."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=_PATIENCE_S, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


_log = get_logger("cdtl.deploy")
_TICK_S = 0.2
_UP_S = 30.0
_PAUSE_S = 1.0
_PYTHON = [sys.executable, "-m"]


def serve_coordinator(front: Front) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP; continues a run that was under way."""
    folder, config = front.folder, front.config
    link = open_superlink(folder, front.scratch)
    flower = Unit("SuperLink", lambda: start_superlink(link), pause_s=_PAUSE_S)
    door = Unit(
        "gateway",
        lambda: _start_gateway(front, link),
        pause_s=_PAUSE_S,
        answers=lambda: gateway_answers(load_gateway_config(_settings_file(link))),
    )
    runs, book, troubles = RunKeeper(folder, link), MemberBook(folder), Troubles(folder)
    known: dict[str, Member] | None = None
    refused: dict[str, Member] | None = None
    notices = DailyNotices(lambda now: coordinator_notices(folder, now))
    try:
        while not front.end.is_set():
            notices.say()
            if flower.keep():
                runs.lost()
                known = None
            if door.keep():
                _log.info("sites reach this coordinator on port %d as %s", config.port, ", ".join(config.names))
            troubles.note(SuperLink=flower.trouble, gateway=door.trouble)
            if flower.pids and (now := book.by_key()) != known:
                known = now if _registered(link, folder) else None
                if known is None and now != refused:  # for example a key that Flower knows as revoked
                    refused = now
                    condemn_database(link.folder, "it did not take a site's key")
                    flower.restart("it did not take a site's key")
            if flower.pids and known is not None:
                _kept(runs)
            front.end.wait(_TICK_S)
        _log.info("ending; cdtl server start %s continues a run from its last complete round", folder)
    finally:
        door.stop()
        flower.stop()


def _start_gateway(front: Front, link: SuperLink) -> ProcessGroup:
    folder, config, listener = front.folder, front.config, front.listener.fileno()
    tls, path = folder / "tls", _settings_file(link)
    settings = GatewayConfig(
        folder=folder,
        host=config.host,
        port=config.port,
        listener=listener,
        probe_port=free_port(),
        upstream_port=link.port,
        certificate=tls / "server.crt",
        key=tls / "server.key",
        authority=link.ca,
        limits=config.limits,
    )
    replace_bytes(path, settings.model_dump_json().encode())
    log = folder / "logs" / "gateway.log"
    group = ProcessGroup(link.flower.env, link.flower.empty)
    group.start("gateway", [*_PYTHON, "cdtl_core.deploy.gateway", str(path)], log, keep=[listener])
    try:
        _await_port(settings.probe_port, log, group)
    except BaseException:
        group.kill()
        raise
    return group


def _settings_file(link: SuperLink) -> Path:
    return link.scratch / "gateway.json"


def _registered(link: SuperLink, folder: Path) -> bool:
    try:
        for site, what in register_sites(link, folder).items():
            _log.info("%s: %s", site, what)
    except FederationError as error:
        _log.warning("%s", error)
        return False
    return True


def _kept(runs: RunKeeper) -> None:
    try:
        runs.keep()
    except CdtlError as error:
        _log.warning("%s", error)


def _await_port(port: int, log: Path, group: ProcessGroup) -> None:
    """Wait until the gateway accepts connections."""
    deadline = time.monotonic() + _UP_S
    while time.monotonic() < deadline and not group.ended():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise FederationError(f"the gateway does not start: read {log}.")
