"""Finds out, at the node's start, what separates the approved code from the site's key and the network."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cdtl_core.deploy.keys import KEY_FILE
from cdtl_core.deploy.sandbox import sandbox_fault
from cdtl_core.errors import ConfigError
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import read_json

__all__ = ["Separation", "find_separation", "note_separation", "noted_separation", "require_separation"]

_FILE, _POLICY = "separation.json", "CDTL_NETWORK_POLICY"


@dataclass(frozen=True)
class Separation:
    """How the approved code is separated.

    Attributes:
        kind: ``sandbox`` made here, ``own`` account or container without key and network, or ``none``.
        text: One sentence.
    """

    kind: Literal["sandbox", "own", "none"]
    text: str


def find_separation(home: Path) -> Separation:
    """Find what this machine, container or account provides for a node that is started here and now."""
    fault = sandbox_fault()
    if not fault:
        return Separation("sandbox", "approved code runs in a sandbox (bubblewrap) without key and network")
    reachable = [
        what
        for what, open_ in (("read the site's key", _sees_key(home)), ("reach the network", _has_network()))
        if open_
    ]
    if not reachable:
        policy = f", by the network policy that {_POLICY} vouches for" if _vouched() else ""
        text = f"approved code runs in a separate account or container without key and network{policy}"
        return Separation("own", text)
    return Separation("none", f"NOT SEPARATED: approved code could {' and '.join(reachable)}, since {fault}")


def require_separation(found: Separation) -> None:
    """Refuse to run approved code without separation.

    Raises:
        ConfigError: There is no separation.
    """
    if found.kind == "none":
        raise ConfigError(f"require_separation is set in site.toml, and this node is {found.text}")


def note_separation(home: Path, found: Separation) -> None:
    """Record for `noted_separation` what separates this node."""
    replace_json(home / "node" / _FILE, {"kind": found.kind, "text": found.text})


def noted_separation(home: Path) -> Separation | None:
    """Return the record of the node that was started last; None if there is none."""
    note = read_json(home / "node" / _FILE)
    return Separation(note["kind"], str(note["text"])) if note.get("kind") in ("sandbox", "own", "none") else None


def _sees_key(home: Path) -> bool:
    with suppress(OSError):
        return os.access(home / KEY_FILE, os.R_OK)
    return False


def _has_network() -> bool:
    return not _vouched() and any(name != "lo" for _, name in socket.if_nameindex())


def _vouched() -> bool:
    """Whether a pod's manifest states that a network policy closes its interface, which is not visible from inside."""
    return os.environ.get(_POLICY) == "enforced"
