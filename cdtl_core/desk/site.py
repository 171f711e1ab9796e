"""`cdtl site desk`: the pages of a site, and its first page: what waits for a person, and the state of everything."""

from pathlib import Path
from typing import Any

from starlette.responses import Response

from cdtl_core.config.folders import ENROLMENT_FILE, SITE_FILE
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.enrolment import load_enrolment
from cdtl_core.deploy.pending import pending
from cdtl_core.deploy.status import site_status
from cdtl_core.desk.deciding import REQUEST_BYTES, Deciding
from cdtl_core.desk.desk import Desk, Form, Need, Page, Visit
from cdtl_core.desk.doors import Doors
from cdtl_core.desk.images import UPLOAD_BYTES, Images
from cdtl_core.desk.records import Records

__all__ = ["site_desk"]


def site_desk(home: Path, port: int, doors: Doors) -> Desk:
    """Return the desk of a site.

    Args:
        home: The site's folder.
        port: The port that it is served on.
        doors: Links and sessions.

    Raises:
        ConfigError: `home` holds no site.
    """
    own = load_site(home / SITE_FILE)
    first, deciding, images, records = _First(home), Deciding(home), Images(home), Records(home)
    pages = [
        Page("/", first.show, "Overview"),
        Page("/enrolment.json", first.enrolment),
        Page("/requests", deciding.list, "Requests"),
        Page("/requests/{id}", deciding.show),
        Page("/runs", records.runs, "Runs"),
        Page("/images", images.cohort, "Images"),
        Page("/images/findings", images.findings),
        Page("/left", records.left, "What left"),
        Page("/privacy", records.privacy, "Privacy"),
        Page("/models", records.models, "Models"),
        Page("/models/{name}", records.model),
        Page("/reports/{run}", records.report),
        Page("/predict", images.ask, "Predict"),
    ]
    forms = [
        Form("/requests", deciding.take, REQUEST_BYTES),
        Form("/requests/{id}/approve", deciding.approve),
        Form("/requests/{id}/refuse", deciding.refuse),
        Form("/requests/{id}/withdraw", deciding.withdraw),
        Form("/images", images.check),
        Form("/predict", images.predict, UPLOAD_BYTES),
    ]
    return Desk(f"Site {own.site}", port, doors, pages, forms)


class _First:
    """The first page, and the file that the coordinator wants."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def show(self, visit: Visit) -> Response:
        """Show what waits for a person, and the site's state."""
        found, enrolment = site_status(self._home), self._home / ENROLMENT_FILE
        fingerprint = load_enrolment(enrolment).fingerprint if enrolment.exists() else ""
        needs = self._needs(found, fingerprint)
        return visit.page("site.html", "Overview", found=found, needs=needs, fingerprint=fingerprint)

    def enrolment(self, visit: Visit) -> Response:
        """Send ``enrolment.json``, which holds no secret."""
        path = self._home / ENROLMENT_FILE
        if not path.exists():
            return visit.fault("This site has not enrolled yet.", 404)
        headers = {"Content-Disposition": f'attachment; filename="{ENROLMENT_FILE}"'}
        return Response(path.read_bytes(), media_type="application/json", headers=headers)

    def _needs(self, found: dict[str, Any], fingerprint: str) -> list[Need]:
        home = self._home
        waiting = {run.id: f"The run {run.name or run.id} waits for your decision." for run in pending(home).values()}
        waiting |= {id: f"A run is {why}" for id, why in found["half_approved"].items()}
        needs = [Need(text, f"/requests/{id}", "Decide") for id, text in waiting.items()]
        needs += [Need(text) for text in found["notices"]]
        if not fingerprint:
            return [*needs, Need("This site has not enrolled yet.", command=f"cdtl site init {home}")]
        if not found["coordinator"]:
            needs.append(Need("This site has no coordinator yet.", command=f"cdtl site init {home} --invite FILE"))
        if not found["running"]:
            needs.append(Need("The site's service does not run.", command=f"cdtl site start {home}"))
        elif not found["last_contact"]:
            text = (
                "The coordinator has not admitted this site yet: send it enrolment.json and read out the fingerprint."
            )
            needs.append(Need(text, "/enrolment.json", "Save enrolment.json"))
        return needs
