"""Starts a site's egress filter, the only program that holds the site's key and reaches the coordinator."""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from cdtl_core.config.folders import SiteFolder
from cdtl_core.data.identity import load_key as load_patient_key
from cdtl_core.deploy.certificates import loopback_certificate, save_credential
from cdtl_core.deploy.coordinator_address import CoordinatorAddress
from cdtl_core.deploy.egress_filter.config import FilterConfig
from cdtl_core.deploy.keys import KEY_FILE, load_key
from cdtl_core.deploy.link import CERTIFICATE, NODE_FOLDERS, SOCKET, Link, check_length
from cdtl_core.errors import FederationError
from cdtl_core.flower import flower_environment
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.processes import ProcessGroup

__all__ = ["CERTIFICATE_FILE", "Filter", "open_filter", "outbound_proxy", "save_tls_key", "start_filter"]

CERTIFICATE_FILE = "site.crt"
_UP_S = 30.0


@dataclass(frozen=True)
class Filter:
    """Everything needed to start the filter.

    Attributes:
        home: The site's folder.
        scratch: Created at each start of the service; only its owner can enter it.
        link: Folder that the node may read.
        config: The filter's configuration.
    """

    home: Path
    scratch: Path
    link: Link
    config: FilterConfig


def open_filter(home: Path, scratch: Path, address: CoordinatorAddress, link: Link) -> Filter:
    """Write the files that filter and node need; nothing is started.

    Args:
        home: The site's folder.
        scratch: Folder of this start of the service.
        address: The coordinator's address.
        link: Folder that the node may read.

    Raises:
        DataError: The site's key is missing or damaged.
        ConfigError: The path of the link is too long for a socket.
    """
    check_length(link.folder)
    save_credential(loopback_certificate(), scratch / "loopback.crt", scratch / "loopback.key")
    save_tls_key(home, scratch / "client.key")
    (scratch / "empty").mkdir()
    link.folder.mkdir(exist_ok=True, mode=0o700)
    for name in (*NODE_FOLDERS, "node"):
        (home / name).mkdir(exist_ok=True, mode=0o700)
    if not any(SiteFolder(home).splits.iterdir()):
        load_patient_key(home)  # created here if it is missing, because the node cannot create it
    link.write(CERTIFICATE, (scratch / "loopback.crt").read_bytes())
    link.copy_from(home)
    config = FilterConfig(
        home=home,
        settings=SiteFolder(home).settings,
        link=link.folder,
        link_mode=link.mode,
        certificate=scratch / "loopback.crt",
        private_key=scratch / "loopback.key",
        site_key=home / KEY_FILE,
        upstream_host=address.host,
        upstream_port=address.port,
        ca=home / address.ca,
        client_certificate=home / CERTIFICATE_FILE,
        client_key=scratch / "client.key",
        proxy=outbound_proxy(address.host),
    )
    return Filter(home, scratch, link, config)


def start_filter(filter: Filter, ending: Callable[[], bool]) -> ProcessGroup:
    """Start the filter; returns once it listens.

    Raises:
        FederationError: It does not listen in time.
    """
    path, log = filter.scratch / "gate.json", filter.home / "logs" / "gate.log"
    replace_bytes(path, filter.config.model_dump_json().encode(), mode=0o600)
    group = ProcessGroup(flower_environment({}), filter.scratch / "empty")
    group.start("filter", [sys.executable, "-m", "cdtl_core.deploy.egress_filter", str(path)], log)
    try:
        _await_socket(filter.link.folder / SOCKET, log, lambda: bool(group.ended()) or ending())
    except BaseException:
        group.kill()
        raise
    return group


def save_tls_key(home: Path, path: Path) -> None:
    """Write the site's key in PEM form for TLS libraries; the file exists only while the service runs."""
    content = load_key(home).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    replace_bytes(path, content, mode=0o600)


def outbound_proxy(host: str) -> str | None:
    """Return the outbound proxy from the environment, unless it excludes this host."""
    excepted = [name.strip() for name in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",")]
    if host in excepted or host in {"127.0.0.1", "localhost", "::1"}:
        return None
    return os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or None


def _await_socket(path: Path, log: Path, given_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _UP_S
    while time.monotonic() < deadline and not given_up():
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.05)
    raise FederationError(f"the filter did not open its socket {path}: read {log}.")
