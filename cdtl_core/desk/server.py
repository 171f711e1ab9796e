"""`cdtl server desk`: the pages of a coordinator, and its first page: what waits for a person, and the state of all."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.responses import Response

from cdtl_core.deploy.applications import APPLICATION_BYTES, applications
from cdtl_core.deploy.expiry import coordinator_certificates
from cdtl_core.deploy.log_check import check_log
from cdtl_core.deploy.records import server_logs
from cdtl_core.deploy.server_config import load_server
from cdtl_core.deploy.status import coordinator_status
from cdtl_core.desk.desk import Desk, Form, Need, Page, Visit
from cdtl_core.desk.doors import Doors
from cdtl_core.desk.server_runs import Runs
from cdtl_core.desk.server_sites import Sites
from cdtl_core.results.text import bytes_text

__all__ = ["server_desk"]


def server_desk(folder: Path, port: int, doors: Doors) -> Desk:
    """Return the desk of a coordinator.

    Args:
        folder: The coordinator's folder.
        port: The port that it is served on.
        doors: Links and sessions.

    Raises:
        ConfigError: `folder` holds no coordinator.
    """
    config = load_server(folder)
    first, sites, runs = _First(folder), Sites(folder), Runs(folder)
    pages = [
        Page("/", first.show, "Overview"),
        Page("/sites", sites.list, "Sites"),
        Page("/sites/{name}", sites.show),
        Page("/applications/{id}", sites.application),
        Page("/invite", sites.ask_invitation, "Invite"),
        Page("/invitations/{name}", sites.invitation),
        Page("/runs", runs.list, "Runs"),
        Page("/runs/{name}", runs.show),
        Page("/runs/{name}/request.json", runs.request),
        Page("/runs/{name}/report", runs.report),
        Page("/log", first.log, "Log"),
    ]
    forms = [
        Form("/applications", sites.take, 2 * APPLICATION_BYTES),
        Form("/applications/{id}/admit", sites.admit),
        Form("/applications/{id}/remove", sites.remove),
        Form("/sites/{name}/revoke", sites.revoke),
        Form("/invite", sites.invite),
        Form("/runs/{name}/stop", runs.stop),
    ]
    return Desk(f"Coordinator {config.names[0]}", port, doors, pages, forms)


class _First:
    """The first page, and the page of the access log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def show(self, visit: Visit) -> Response:
        """Show what waits for a person, and the coordinator's state."""
        found, now = coordinator_status(self._folder), datetime.now(UTC)
        certificates = [
            (one.what, f"{one.ends:%Y-%m-%d}", max(0, (one.ends - now).days), one.notice(now))
            for one in coordinator_certificates(self._folder, now)
        ]
        disk = found["disk"]
        return visit.page(
            "server.html",
            "Overview",
            found=found,
            needs=self._needs(found),
            certificates=certificates,
            disk=f"{bytes_text(disk['free'])} free of {bytes_text(disk['total'])}",
            connected=sum(site["connected"] for site in found["sites"].values()),
            members=sum(not site["revoked"] for site in found["sites"].values()),
            running=[run for run in found["runs"] if run["status"] in {"queued", "running"}],
        )

    def log(self, visit: Visit) -> Response:
        """Show whether the access log is whole, and its head."""
        checked = {name: check_log(files) for name, files in server_logs(self._folder).items()}
        return visit.page("server_log.html", "Log", checked=checked)

    def _needs(self, found: dict[str, Any]) -> list[Need]:
        needs = [
            Need(f"Site {one.enrolment.site} wants to {'change its key' if one.renews else 'join'}.",
                  f"/applications/{one.id}", "Decide")
            for one in applications(self._folder).values()
        ]  # fmt: skip
        if not found["running"]:
            needs.append(Need("The coordinator's service does not run.", command=f"cdtl server start {self._folder}"))
        needs += [Need(f"Its {name} does not run: {why}") for name, why in found["troubles"].items()]
        needs += [Need(found["loopback_warning"])] if found["loopback_warning"] else []
        needs += [Need(text) for text in found["notices"]]
        if not found["sites"]:
            needs.append(Need("No site is admitted yet.", "/invite", "Invite a site"))
        return needs
