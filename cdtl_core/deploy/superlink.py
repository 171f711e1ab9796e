"""A coordinator's SuperLink with its executor, on loopback only, and its list of sites."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdtl_core.config.settings import save_toml
from cdtl_core.deploy.certificates import loopback_certificate, save_credential
from cdtl_core.deploy.database import DATABASE, NODES, note_started, prepare_database
from cdtl_core.deploy.members import members
from cdtl_core.deploy.service import note_service
from cdtl_core.errors import FederationError
from cdtl_core.flower import CONNECTION, TASK_POLL, Flower, await_health, flower_environment
from cdtl_core.system.durable import replace_bytes, replace_json
from cdtl_core.system.foreign import get_logger, read_json
from cdtl_core.system.processes import ProcessGroup, free_port

__all__ = ["SuperLink", "open_superlink", "register_sites", "start_superlink"]

_log = get_logger("cdtl.deploy")
_UP_S = 60.0
_TASK_S = 0.5  # looks for a run to start; each look costs the SuperLink as much as a message


@dataclass(frozen=True)
class SuperLink:
    """Addresses, certificates and folders of a SuperLink.

    Attributes:
        port: On 127.0.0.1.
        ca: The loopback certificate, PEM.
        scratch: Created at each start of the service.
        folder: Permanent files: ``state.db``, ``nodes.json``.
        logs: Folder for the output of its programs.
        flower: Environment for `flwr`.
    """

    port: int
    ca: Path
    scratch: Path
    folder: Path
    logs: Path
    flower: Flower


def open_superlink(folder: Path, scratch: Path) -> SuperLink:
    """Choose a port and write the files of a SuperLink; nothing is started.

    Args:
        folder: The coordinator's.
        scratch: An empty folder that ends with the service.
    """
    port, home = free_port(), scratch / "flower"
    for name in ("flower", "empty"):
        (scratch / name).mkdir(parents=True)
    save_credential(loopback_certificate(), scratch / "loopback.crt", scratch / "loopback.key")
    replace_bytes(scratch / "secret", secrets.token_bytes(32), mode=0o600)
    connection = {"address": f"127.0.0.1:{port}", "root-certificates": str(scratch / "loopback.crt")}
    save_toml(home / "config.toml", {"superlink": {"default": CONNECTION, CONNECTION: connection}})
    environment = flower_environment({"FLWR_HOME": home, "CDTL_RUNS": folder / "runs", TASK_POLL: _TASK_S})
    flower = Flower(environment, scratch / "empty")
    (folder / "flower").mkdir(exist_ok=True)
    return SuperLink(port, scratch / "loopback.crt", scratch, folder / "flower", folder / "logs", flower)


def start_superlink(link: SuperLink) -> ProcessGroup:
    """Start the SuperLink and its executor and wait until it answers; an unusable database is replaced.

    Raises:
        CheckpointError: A database cannot be set aside.
        FederationError: It does not answer in time.
    """
    if why := prepare_database(link.folder):
        note_service(link.folder.parent, database_replaced={"time": time.time(), "why": why})
        _log.warning("Flower's database was replaced by a new one (%s); sites connect again by themselves", why)
    group, address = ProcessGroup(link.flower.env, link.flower.empty), f"127.0.0.1:{link.port}"
    secret = ["--superexec-auth-secret-file", str(link.scratch / "secret")]
    tls = ["--ssl-certfile", str(link.ca), "--ssl-keyfile", str(link.ca.with_suffix(".key"))]
    tls += ["--ssl-ca-certfile", str(link.ca), "--enable-supernode-auth"]
    place = ["--host", "127.0.0.1", "--port", str(link.port), "--database", str(link.folder / DATABASE)]
    quiet = ["--isolation", "process", "--disable-runtime-dependency-installation"]
    executor = ["flower-superexec", "--root-certificates", str(link.ca), "--runtime-api-address", address]
    log = link.logs / "superlink.log"
    try:
        group.start("SuperLink", ["flower-superlink", *place, *tls, *quiet, *secret], log)
        await_health(f"https://{address}", timeout_s=_UP_S, log=log, ca=link.ca, alive=lambda: not group.ended())
        note_started(link.folder)
        group.start("executor", [*executor, *secret], link.logs / "run.log")
    except BaseException:
        group.kill()
        raise
    return group


def register_sites(link: SuperLink, folder: Path) -> dict[str, str]:
    """Make the SuperLink's list of nodes equal to the list of admitted sites; return the changes by site.

    Raises:
        FederationError: Flower did not take a key.
    """
    path = link.folder / NODES
    nodes = dict(read_json(path))
    now = datetime.now(UTC)
    wanted = {
        key: (member.site, line)
        for member in members(folder)
        if member.revoked_at is None
        for key, (line, _) in member.keys(now).items()
    }
    done: dict[str, str] = {}
    for key in [key for key in nodes if key not in wanted]:
        link.flower.read("supernode", "unregister", str(nodes[key]["node"]), CONNECTION)
        done[nodes.pop(key)["site"]] = "removed"
        replace_json(path, nodes)
    for key, (site, line) in wanted.items():
        if key not in nodes:
            nodes[key] = {"site": site, "node": _register(link, site, line)}
            done[site] = "registered"
            replace_json(path, nodes)
    return done


def _register(link: SuperLink, site: str, line: str) -> str:
    key = link.scratch / f"{site}.pub"
    key.write_text(line + "\n", encoding="utf-8")
    answer: Mapping[str, Any] = link.flower.read("supernode", "register", str(key), CONNECTION, "--name", site)
    if not answer.get("node-id"):
        raise FederationError(f"Flower did not take the key of {site}: read {link.logs / 'superlink.log'}.")
    return str(answer["node-id"])
