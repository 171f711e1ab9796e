"""Status of a coordinator or a site, read from its folder, whether its service runs or not."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdtl_core.config import SiteConfig
from cdtl_core.config.folders import RunFolder, SiteFolder
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.approval_list import Approval, approvals
from cdtl_core.deploy.approvals import missing_persons
from cdtl_core.deploy.certificates import expiry
from cdtl_core.deploy.egress_filter.status import read_status
from cdtl_core.deploy.expiry import coordinator_notices, site_notices
from cdtl_core.deploy.members import members
from cdtl_core.deploy.pending import pending
from cdtl_core.deploy.refusing import refusals
from cdtl_core.deploy.runs import load_run_state, run_folders
from cdtl_core.deploy.seen import last_seen
from cdtl_core.deploy.separation import noted_separation
from cdtl_core.deploy.server_config import load_server
from cdtl_core.deploy.service import CONNECTING_S, SERVICE_FILE, is_running, troubles_of
from cdtl_core.deploy.used import used_text
from cdtl_core.errors import PrivacyError
from cdtl_core.results.spent import epsilons_of_site
from cdtl_core.system.foreign import read_json

__all__ = ["coordinator_status", "node_status", "site_status"]

_FRESH_S = 45.0
"""Connected means that the SuperLink answered a request within this time; a heartbeat comes every 30 s."""


def coordinator_status(folder: Path) -> dict[str, Any]:
    """Return whether the coordinator runs, its sites, and its runs, the newest first.

    Raises:
        ConfigError: `folder` holds no coordinator.
    """
    config, pid, disk = load_server(folder), is_running(folder), shutil.disk_usage(folder)
    note = read_json(folder / SERVICE_FILE) if pid else {}
    seen, now = last_seen(folder), time.time()
    sites = {
        member.site: {
            "modality": member.enrolment.contract.modality,
            "patients": member.enrolment.contract.patients,
            "revoked": member.revoked_at is not None,
            "connected": bool(pid) and now - seen.get(member.site, 0) < _FRESH_S,
            "last_seen": seen.get(member.site),
        }
        for member in members(folder)
    }
    return {
        "running": bool(pid),
        "pid": pid,
        "troubles": troubles_of(folder),
        "names": list(config.names),
        "port": config.port,
        "loopback_warning": note.get("loopback_warning", ""),
        "database_replaced": note.get("database_replaced"),
        "certificate_expires": expiry(folder / "tls" / "server.crt").isoformat(),
        "notices": coordinator_notices(folder),
        "disk": {"free": disk.free, "total": disk.total},
        "sites": sites,
        "runs": [_run(path) for path in reversed(list(run_folders(folder)))],
    }


def site_status(home: Path) -> dict[str, Any]:
    """Return whether the site runs and is connected, its approvals, and the runs that wait for approval.

    Raises:
        ConfigError: `home` holds no site.
    """
    own, filter = load_site(SiteFolder(home).settings), read_status(home)
    pid = is_running(home)
    return {
        "running": bool(pid),
        "pid": pid,
        "troubles": troubles_of(home),
        "site": own.site,
        "modality": own.modality,
        "coordinator": dict(read_json(home / "coordinator.json")),
        "connected": bool(pid)
        and bool(filter.get("connected"))
        and time.time() - (filter.get("last_contact") or 0) < _FRESH_S,
        "connecting": bool(pid) and time.time() - read_json(home / SERVICE_FILE).get("started", 0) < CONNECTING_S,
        "separation": _separation(home),
        "last_contact": filter.get("last_contact"),
        "last_refusal": filter.get("last_refusal"),
        "last_fault": filter.get("last_fault"),
        "notices": site_notices(home),
        **_approvals(home, own),
        "pending": {id: run.what for id, run in sorted(pending(home).items())},
        "refused": {id: f"{one.name}: {one.note}" for id, one in refusals(home).items()},
        "privacy": _privacy(home),
        "models": [folder.name for folder in SiteFolder(home).models()],
    }


def node_status(home: Path) -> dict[str, Any]:
    """Return whether a separately started node runs, and what separates it."""
    pid = is_running(home / "node")
    troubles = troubles_of(home / "node")
    return {"running": bool(pid), "pid": pid, "troubles": troubles, "separation": _separation(home)}


def _approvals(home: Path, own: SiteConfig) -> dict[str, dict[str, Any]]:
    """Return the approved runs by name, their progress, and whose approval some still need."""
    found = approvals(home)
    missing = {name: missing_persons(approval, own) for name, approval in found.items()}
    ready = {name: approval for name, approval in found.items() if not missing[name]}
    return {
        "approved": {name: approval.settings["name"] for name, approval in ready.items()},
        "used": {name: _used(home, approval) for name, approval in ready.items()},
        "half_approved": {name: why for name, why in missing.items() if why},
    }


def _used(home: Path, approval: Approval) -> str:
    try:
        return used_text(home, approval.id, approval.settings)
    except PrivacyError as error:
        return str(error)


def _separation(home: Path) -> str:
    """Return the record of the node that was started last; empty if there is none."""
    found = noted_separation(home)
    return found.text if found else ""


def _privacy(home: Path) -> str:
    """Return the state of the site's privacy ledger in a few words; empty if it never trained with privacy."""
    try:
        spent = epsilons_of_site(home)
    except PrivacyError as error:
        return str(error)
    return "; ".join(f"epsilon {epsilon:.2f} at delta {delta:g} spent" for epsilon, delta in spent)


def _run(path: Path) -> dict[str, Any]:
    state = load_run_state(path)
    progress: Mapping[str, Any] = read_json(RunFolder(path).progress)
    return {
        "name": path.name,
        "status": state.status if state else "not requested",
        "reason": state.reason if state else "",
        "round": progress.get("round"),  # None before the first
        "rounds": progress.get("rounds"),
        "waiting": progress.get("waiting", {}),
    }
