"""Leaving a federation: nothing more is run or sent; the models stay at the site."""

import shutil
from pathlib import Path

from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.records import record_approval
from cdtl_core.deploy.service import stop_service

__all__ = ["leave_federation"]

_FORGOTTEN = (
    "approvals",
    "pending",
    "refused",
    "coordinator.json",
    "coordinator.crt",
    "link",
    "gate.json",
    "asks.json",
)


def leave_federation(home: Path) -> list[str]:
    """End the service, remove every approval and the coordinator's address; return what is kept.

    Raises:
        ConfigError: `home` holds no site.
        FederationError: The service does not end.
        CheckpointError: The site has left, and the log of approvals cannot be written.
    """
    load_site(home / SITE_FILE)
    for part in (home / "node", home):
        stop_service(part)
    for name in _FORGOTTEN:
        path = home / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    record_approval(home, "left", "")
    return [name for name in ("models", "memory", "logs", "site.key") if (home / name).exists()]
