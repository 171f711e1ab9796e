"""The coordinator's service: SuperLink, gateway, the list of sites and the runs, kept going until it is stopped."""

import logging
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from cdtl_core.deploy.certificates import issue_server_certificate, load_credential, make_authority, save_credential
from cdtl_core.deploy.gateway_config import GatewayConfig
from cdtl_core.deploy.members import MemberBook
from cdtl_core.deploy.run_keeper import RunKeeper
from cdtl_core.deploy.server_config import ServerConfig, load_server, save_server
from cdtl_core.deploy.service import running_service
from cdtl_core.deploy.superlink import SuperLink, open_superlink, register_sites, start_superlink
from cdtl_core.deploy.unit import Unit
from cdtl_core.durable import replace_bytes
from cdtl_core.errors import CdtlError, CheckpointError, FederationError
from cdtl_core.processes import ProcessGroup

__all__ = ["make_coordinator", "renew_certificate", "serve_coordinator"]

_log = logging.getLogger("cdtl.deploy")
_TICK_S = 0.2
_UP_S = 30.0
_PAUSE_S = 1.0
_PYTHON = [sys.executable, "-m"]


def make_coordinator(folder: Path, config: ServerConfig) -> None:
    """Write a coordinator's folder: its authority, its TLS certificate, its settings.

    Raises:
        CheckpointError: The folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is not empty: choose another folder.")
    authority = make_authority(f"cdtl coordinator {config.names[0]}")
    server = issue_server_certificate(authority, config.names)  # before a file is written: a name may be none
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # sites' weights and the authority's key
    save_credential(authority, folder / "tls" / "ca.crt", folder / "tls" / "ca.key")
    save_credential(server, folder / "tls" / "server.crt", folder / "tls" / "server.key")
    for name in ("sites", "runs", "logs"):
        (folder / name).mkdir(exist_ok=True)
    save_server(folder, config)


def renew_certificate(folder: Path, config: ServerConfig) -> None:
    """Issue the server's certificate anew, for the names in its settings; sites keep the same ca.crt.

    Raises:
        ConfigError: The authority's key is gone or damaged.
    """
    authority = load_credential(folder / "tls" / "ca.crt", folder / "tls" / "ca.key")
    server = issue_server_certificate(authority, config.names)
    save_credential(server, folder / "tls" / "server.crt", folder / "tls" / "server.key")


def serve_coordinator(folder: Path) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP; a run that was under way is gone on with.

    Raises:
        ConfigError: `folder` holds no coordinator.
        CheckpointError: Another service runs on it.
    """
    folder = folder.resolve()
    config = load_server(folder)
    with running_service(folder) as (end, scratch):
        link = open_superlink(folder, scratch)
        flower = Unit("SuperLink", lambda: start_superlink(link), pause_s=_PAUSE_S)
        door = Unit("gateway", lambda: _start_gateway(folder, config, link), pause_s=_PAUSE_S)
        runs, book, known = RunKeeper(folder, link), MemberBook(folder), None
        try:
            while not end.is_set():
                if flower.keep():
                    runs.lost()
                    known = None
                if door.keep():
                    _log.info("sites reach this coordinator on port %d as %s", config.port, ", ".join(config.names))
                if flower.pids and (now := book.by_key()) != known:
                    known = now if _registered(link, folder) else None
                if flower.pids and known is not None:
                    _kept(runs)
                end.wait(_TICK_S)
            _log.info("ending")
        finally:
            door.stop()
            flower.stop()


def _start_gateway(folder: Path, config: ServerConfig, link: SuperLink) -> ProcessGroup:
    tls, path = folder / "tls", link.scratch / "gateway.json"
    settings = GatewayConfig(
        folder=folder,
        host=config.host,
        port=config.port,
        upstream_port=link.port,
        certificate=tls / "server.crt",
        key=tls / "server.key",
        authority=link.ca,
        limits=config.limits,
    )
    replace_bytes(path, settings.model_dump_json().encode())
    log = folder / "logs" / "gateway.log"
    group = ProcessGroup(link.flower.env, link.flower.empty)
    group.start("gateway", [*_PYTHON, "cdtl_core.deploy.gateway", str(path)], log)
    try:
        _await_port(config, log, group)
    except BaseException:
        group.kill()
        raise
    return group


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


def _await_port(config: ServerConfig, log: Path, group: ProcessGroup) -> None:
    """Wait until the gateway takes connections; its certificate bears other names than this machine's own."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104
    deadline = time.monotonic() + _UP_S
    while time.monotonic() < deadline and not group.ended():
        with suppress(OSError), socket.create_connection((host, config.port), timeout=1):
            return
        time.sleep(0.05)
    raise FederationError(f"the gateway does not listen on port {config.port}: read {log}.")
