"""Units with which systemd keeps a coordinator or a site running."""

import shlex
import sys
from pathlib import Path
from typing import Literal

__all__ = ["unit_text"]

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


def unit_text(role: Literal["server", "site"], folder: Path, user: str) -> str:
    """The text of a unit that starts ``cdtl ROLE start FOLDER`` with this Python."""
    command = shlex.join([str(Path(sys.executable).parent / "cdtl"), role, "start", str(folder)])
    more = f"InaccessiblePaths=-{folder / 'authority'}\n" if role == "server" else ""
    return _UNIT.format(role=role, folder=folder, user=user, command=command, more=more)
