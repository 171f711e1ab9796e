"""systemd units for a coordinator or a site, with one or two accounts per site."""

import shlex
import sys
from pathlib import Path
from typing import Literal

from cdtl_core.deploy.link import LINK, NODE_FOLDERS

__all__ = ["filter_unit", "node_unit", "unit_text"]

_UNIT = """\
[Unit]
Description=cdtl {role} ({folder})
After=network-online.target
Wants=network-online.target

[Service]
User={user}
ExecStart={command}
Restart=always
RestartSec=5
KillMode=control-group
TimeoutStopSec=60
UMask=0077
NoNewPrivileges=true
PrivateTmp=true
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folder}
{more}
[Install]
WantedBy=multi-user.target
"""
_FILTER = """\
ExecStartPre=+install -d -o {user} -g {node} -m 2750 {link}
"""
_NODE = """\
# The account of the approved code: no network, and of the site's folder only what is bound here.
[Unit]
Description=cdtl site's node ({folder})
After=network.target

[Service]
User={node}
ExecStartPre=+install -d -o {node} -g {user} -m 2770 {folders}
ExecStartPre=+chown -R {node}:{user} {folders}
ExecStartPre=+chmod -R g+rwX,o= {folders}
ExecStart={command}
Restart=always
RestartSec=5
KillMode=control-group
TimeoutStopSec=60
UMask=0007
PrivateNetwork=true
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
TemporaryFileSystem={folder}:ro
BindPaths={folders}
BindReadOnlyPaths={link}
NoNewPrivileges=true
CapabilityBoundingSet=
RestrictSUIDSGID=true
PrivateTmp=true
PrivateIPC=true
ProtectProc=invisible
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectKernelLogs=true
ProtectControlGroups=true
ProtectClock=true
LockPersonality=true
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def unit_text(role: Literal["server", "site"], folder: Path, user: str) -> str:
    """Return a unit that starts ``cdtl ROLE start FOLDER`` with this Python.

    Args:
        role: ``server`` or ``site``.
        folder: The folder of the service.
        user: Its account.
    """
    command = _command(role, "start", str(folder))
    more = f"InaccessiblePaths=-{folder / 'authority'}\n" if role == "server" else ""
    return _UNIT.format(role=role, folder=folder, user=user, command=command, more=more)


def filter_unit(folder: Path, user: str, node_user: str) -> str:
    """Return a unit for a site's filter.

    Args:
        folder: The site's folder.
        user: The account that holds the key.
        node_user: The account that may read the link.
    """
    more = _FILTER.format(user=user, node=node_user, link=shlex.quote(str(folder / LINK)))
    command = _command("site", "start", str(folder), "--part", "filter")
    return _UNIT.format(role="site's filter", folder=folder, user=user, more=more, command=command)


def node_unit(folder: Path, user: str, node_user: str) -> str:
    """Return a unit for a site's node.

    Args:
        folder: The site's folder.
        user: The filter's account, which may read what the node writes.
        node_user: The node's account.
    """
    return _NODE.format(
        folder=folder,
        user=user,
        node=node_user,
        link=shlex.quote(str(folder / LINK)),
        folders=shlex.join(str(folder / name) for name in (*NODE_FOLDERS, "node")),
        command=_command("site", "start", str(folder), "--part", "node"),
    )


def _command(*words: str) -> str:
    return shlex.join([str(Path(sys.executable).parent / "cdtl"), *words])
