"""The link: the only folder of the filter that the node may read; it holds no key of the site.

::

    gate.sock      the filter's socket, with TLS
    gate.crt       its certificate
    node.key       the SuperNode's key: accepted by this filter only, while it runs
    trusted.yaml   the key with which the filter signs approved bundles
    approved.json  settings and code of the runs handed over, for the model card
    site.toml, patient.key, enrolment.json, audit.json   copies of the site's own files that the approved code reads
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config.folders import APPROVED_FILE, AUDIT_FILE, ENROLMENT_FILE, SITE_FILE
from cdtl_core.config.paths import portable_site
from cdtl_core.data.identity import KEY_FILE as PATIENT_KEY_FILE
from cdtl_core.errors import ConfigError
from cdtl_core.system.durable import replace_bytes

__all__ = [
    "CERTIFICATE",
    "COPIED",
    "LINK",
    "NODE_FOLDERS",
    "NODE_KEY",
    "SOCKET",
    "TRUSTED",
    "Link",
    "check_length",
]

LINK = "link"
"""Name of the link in the site's folder, if filter and node are started separately."""
SOCKET, CERTIFICATE, NODE_KEY, TRUSTED = "gate.sock", "gate.crt", "node.key", "trusted.yaml"
COPIED = (SITE_FILE, PATIENT_KEY_FILE, ENROLMENT_FILE, AUDIT_FILE)
"""Files of the site's folder that the approved code reads."""
NODE_FOLDERS = ("cache", "memory", "models", "privacy", "rounds", "splits", "initial_weights")
"""Folders of the site's folder that the approved code may write; it can write nowhere else."""
_LONGEST = 100


@dataclass(frozen=True)
class Link:
    """Writes the link's files.

    Attributes:
        folder: The link.
        mode: Permissions of each file: 0o600, or 0o640 if the node runs under another account of the folder's group.
    """

    folder: Path
    mode: int = 0o600

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically.

        Raises:
            CheckpointError: The disk is full or read-only.
        """
        replace_bytes(self.folder / name, content, mode=0o600)
        (self.folder / name).chmod(self.mode)

    def approved(self, settings: Mapping[str, object], bundle_sha256: str) -> None:
        """Record a run whose code is handed over; its settings are the code's own and tell it nothing new."""
        try:
            known = json.loads((self.folder / APPROVED_FILE).read_bytes())
        except (OSError, ValueError):
            known = []
        entry = {"settings": dict(settings), "bundle_sha256": bundle_sha256}
        if entry not in known:
            self.write(APPROVED_FILE, json.dumps([*known, entry]).encode())

    def copy_from(self, home: Path) -> None:
        """Copy the files that the approved code reads, if they have changed."""
        for name in COPIED:
            with suppress(FileNotFoundError):
                path, target = home / name, self.folder / name
                content = portable_site(path) if name == SITE_FILE else path.read_bytes()
                if not target.exists() or target.read_bytes() != content:
                    self.write(name, content)


def check_length(link: Path) -> None:
    """Refuse a link whose socket path would be too long.

    Raises:
        ConfigError: It is longer than a Unix socket's may be.
    """
    if len(os.fsencode(link / SOCKET)) > _LONGEST:
        raise ConfigError(f"{link / SOCKET} is longer than {_LONGEST} bytes: move the site's folder to a shorter path.")
