"""A site's two units on loopback: the gate, and behind it a SuperNode with the executor that runs approved code."""

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from cdtl_core.deploy.certificates import loopback_certificate, save_credential
from cdtl_core.deploy.coordinator_address import CoordinatorAddress
from cdtl_core.deploy.gate.config import GateConfig
from cdtl_core.deploy.gate.release import release_node
from cdtl_core.deploy.keys import KEY_FILE, load_key
from cdtl_core.durable import replace_bytes
from cdtl_core.errors import FederationError
from cdtl_core.flower import flower_environment
from cdtl_core.processes import ProcessGroup, free_port

__all__ = [
    "CERTIFICATE_FILE",
    "SuperNode",
    "open_supernode",
    "outbound_proxy",
    "save_tls_key",
    "start_gate",
    "start_supernode",
]

CERTIFICATE_FILE = "site.crt"
_UP_S = 30.0


@dataclass(frozen=True)
class SuperNode:
    """What a site's units are started with.

    Attributes:
        home: The site's folder.
        scratch: Made anew at each start of the service.
        gate: The gate's configuration.
        runtime_port: Where the SuperNode hands messages to the executor, on 127.0.0.1.
    """

    home: Path
    scratch: Path
    gate: GateConfig
    runtime_port: int

    @property
    def logs(self) -> Path:
        """Where the programs' output goes."""
        return self.home / "logs"


def open_supernode(home: Path, scratch: Path, address: CoordinatorAddress) -> SuperNode:
    """Choose ports and write what the units need; nothing is started.

    Raises:
        DataError: The site's key is missing or damaged.
    """
    save_credential(loopback_certificate(), scratch / "loopback.crt", scratch / "loopback.key")
    replace_bytes(scratch / "secret", secrets.token_bytes(32), mode=0o600)
    save_tls_key(home, scratch / "client.key")
    (scratch / "empty").mkdir()
    gate = GateConfig(
        home=home,
        settings=home / "site.toml",
        port=free_port(),
        certificate=scratch / "loopback.crt",
        private_key=scratch / "loopback.key",
        upstream_host=address.host,
        upstream_port=address.port,
        ca=home / address.ca,
        client_certificate=home / CERTIFICATE_FILE,
        client_key=scratch / "client.key",
        proxy=outbound_proxy(address.host),
        trusted_entities=scratch / "trusted.yaml",
    )
    return SuperNode(home, scratch, gate, free_port())


def start_gate(node: SuperNode, ending: Callable[[], bool]) -> ProcessGroup:
    """Start the gate; returns once it listens.

    Raises:
        FederationError: It does not listen in time.
    """
    path, log = node.scratch / "gate.json", node.logs / "gate.log"
    replace_bytes(path, node.gate.model_dump_json().encode(), mode=0o600)
    group = ProcessGroup(flower_environment({}), node.scratch / "empty")
    group.start("gate", [sys.executable, "-m", "cdtl_core.deploy.gate", str(path)], log)
    try:
        _await_port(node.gate.port, log, lambda: bool(group.ended()) or ending())
    except BaseException:
        group.kill()
        raise
    return group


def start_supernode(node: SuperNode, ending: Callable[[], bool]) -> ProcessGroup:
    """Start a SuperNode with an empty Flower folder, so that no bundle unpacked earlier is used again.

    A session that a killed SuperNode left open at the coordinator is closed first.
    """
    release_node(node.gate, node.home / KEY_FILE)
    flower_home = node.scratch / f"flower-{time.monotonic_ns()}"
    flower_home.mkdir(mode=0o700)
    group = ProcessGroup(flower_environment({"FLWR_HOME": flower_home, "CDTL_HOME": node.home}), node.scratch / "empty")
    secret = ["--superexec-auth-secret-file", str(node.scratch / "secret")]
    link = ["--superlink", f"127.0.0.1:{node.gate.port}", "--root-certificates", str(node.gate.certificate)]
    trust = ["--auth-supernode-private-key", str(node.home / KEY_FILE)]
    trust += ["--trusted-entities", str(node.gate.trusted_entities)]
    place = ["--host", "127.0.0.1", "--port", str(node.runtime_port), "--isolation", "process"]
    executor = ["flower-superexec", "--insecure", "--runtime-api-address", f"127.0.0.1:{node.runtime_port}"]
    log = node.logs / "supernode.log"
    try:
        group.start("SuperNode", ["flower-supernode", *link, *trust, *place, *secret], log)
        _await_port(node.runtime_port, log, lambda: bool(group.ended()) or ending())
        group.start("executor", [*executor, *secret], node.logs / "training.log")
    except BaseException:
        group.kill()
        raise
    return group


def save_tls_key(home: Path, path: Path) -> None:
    """The site's key in the form that TLS libraries read, for as long as the service runs."""
    content = load_key(home).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    replace_bytes(path, content, mode=0o600)


def outbound_proxy(host: str) -> str | None:
    """The outbound proxy that the environment names, unless it excepts this host."""
    excepted = [name.strip() for name in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",")]
    if host in excepted or host in {"127.0.0.1", "localhost", "::1"}:
        return None
    return os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or None


def _await_port(port: int, log: Path, given_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _UP_S
    while time.monotonic() < deadline and not given_up():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise FederationError(f"a program of this site did not open its port {port} on 127.0.0.1: read {log}.")
