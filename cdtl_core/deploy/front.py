"""First steps of a coordinator's service: lock its folder, open the public port, close its other ports to others.

This module does not import numpy, which starts threads: Linux isolates only a process with one thread.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.deploy.authority import AUTHORITY_FOLDER, adopt_authority_key
from cdtl_core.deploy.gateway_config import open_listener
from cdtl_core.deploy.server_config import ServerConfig, load_server
from cdtl_core.deploy.service import SERVICE_FILE, note_service, running_service
from cdtl_core.errors import ConfigError
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.isolation import has_own_network, try_isolation

__all__ = ["Front", "loopback_warning", "open_front"]

_log = get_logger("cdtl.deploy")
_PORT_S = 10.0
_FIRST_FD = 3  # sd_listen_fds(3)


@dataclass(frozen=True)
class Front:
    """A coordinator's service before it starts a program.

    Attributes:
        folder: The coordinator's folder.
        config: Its settings.
        end: Set when the service must end.
        scratch: A folder that is removed with the service.
        listener: The open public port.
    """

    folder: Path
    config: ServerConfig
    end: threading.Event
    scratch: Path
    listener: socket.socket


@contextmanager
def open_front(folder: Path) -> Iterator[Front]:
    """Lock a coordinator's folder, open its public port and isolate this process; import the rest inside the block.

    If isolation is not possible, the log and ``cdtl server status`` say so.

    Raises:
        ConfigError: `folder` holds no coordinator, or the port is taken.
        CheckpointError: Another service runs on it, or it belongs to another account.
    """
    folder = folder.resolve()
    config = load_server(folder)
    _check_owner(folder)
    killed = (folder / SERVICE_FILE).exists()
    with running_service(folder) as (end, scratch):
        adopt_authority_key(folder)
        with _public_port(config, end, patience_s=_PORT_S if killed else 0.0) as listener:
            warning = _shut(folder)
            note_service(folder, loopback_warning=warning)
            if warning:
                _log.warning("%s", warning)
            else:
                _log.info("the loopback ports of this coordinator are closed to other accounts of this machine")
            yield Front(folder, config, end, scratch, listener)


def _check_owner(folder: Path) -> None:
    """Refuse root on another account's folder: once isolated, root cannot read files of other accounts."""
    owner = folder.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        raise ConfigError(
            f"{folder} belongs to account number {owner} and you are root: start it as that account, for example with "
            f"sudo -u '#{owner}' cdtl server start, or by the unit that cdtl server unit prints."
        )


def loopback_warning(fault: str) -> str:
    """Return the warning and advice for a machine where isolation is not possible."""
    return (
        "OPEN: every account of this machine can submit code to a coordinator here through its loopback ports, because "
        f"this system gives it no separate network ({fault}). Allow user namespaces, start it by systemd with "
        "PrivateNetwork=yes and a socket unit, or give it a machine or a container that no one else uses "
        "(docs/coordinator.md, Local accounts)."
    )


def _shut(folder: Path) -> str:
    """Isolate this process; return a warning if that is not possible."""
    authority = folder / AUTHORITY_FOLDER
    fault = try_isolation([authority] if authority.exists() else [])
    return loopback_warning(fault) if fault and not has_own_network() else ""


def _public_port(config: ServerConfig, end: threading.Event, *, patience_s: float) -> socket.socket:
    """Return the socket that systemd passed, or a new one.

    Args:
        config: Names the port.
        end: Set when the service must end.
        patience_s: How long to wait for a port that is in use. A killed service may hold its port a moment longer.
    """
    if os.environ.pop("LISTEN_PID", "") == str(os.getpid()) and os.environ.pop("LISTEN_FDS", "") == "1":
        return socket.socket(fileno=_FIRST_FD)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return open_listener(config.host, config.port)
        except ConfigError:
            if time.monotonic() >= deadline or end.wait(0.1):
                raise
