"""The coordinator's service: SuperLink, gateway, the list of sites and the runs, kept going until it is stopped."""

import logging
import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from cdtl_core.deploy.certificates import issue_server_certificate, load_credential, make_authority, save_credential
from cdtl_core.deploy.gateway_config import GatewayConfig
from cdtl_core.deploy.members import MemberBook
from cdtl_core.deploy.run_keeper import RunKeeper
from cdtl_core.deploy.server_config import SERVER_FILE, ServerConfig, load_server, save_server
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
_DRAFT = ".init"
_PARTS = {"tls", "sites", "runs", "logs", SERVER_FILE}


def make_coordinator(folder: Path, config: ServerConfig) -> None:
    """Write a coordinator's folder: its authority, its TLS certificate, its settings.

    Everything is made in a draft folder inside and then moved, the settings last. A call after a kill at any moment
    starts again, or moves what is missing. Kubernetes relies on that: it repeats the command until it succeeds.

    Raises:
        CheckpointError: The folder holds other files, or a coordinator of other settings was being made in it.
    """
    draft = folder / _DRAFT
    found = {path.name for path in folder.iterdir()} - {_DRAFT, "lost+found"} if folder.is_dir() else set()
    complete = (draft / SERVER_FILE).exists()
    if (folder.exists() and not folder.is_dir()) or (found and not (complete and found <= _PARTS)):
        raise CheckpointError(f"{folder} is not empty and holds no coordinator that can be finished: choose another.")
    if found and load_server(draft) != config:
        raise CheckpointError(f"in {folder} a coordinator of other settings is half made: repeat that command.")
    if not found:
        _make_draft(draft, config)
    for part in sorted(draft.iterdir(), key=lambda path: path.name == SERVER_FILE):
        os.replace(part, folder / part.name)
    draft.rmdir()


def _make_draft(draft: Path, config: ServerConfig) -> None:
    authority = make_authority(f"cdtl coordinator {config.names[0]}")
    server = issue_server_certificate(authority, config.names)  # before a file is written: a name may be none
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # sites' weights and the authority's key
    draft.mkdir(mode=0o700)
    save_credential(authority, draft / "tls" / "ca.crt", draft / "tls" / "ca.key")
    save_credential(server, draft / "tls" / "server.crt", draft / "tls" / "server.key")
    for name in ("sites", "runs", "logs"):
        (draft / name).mkdir()
    save_server(draft, config)


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
