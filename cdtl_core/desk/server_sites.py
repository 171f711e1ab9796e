"""The coordinator's members at its desk: who is one, who wants to be one, and invitations."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from pydantic import ValidationError
from starlette.responses import Response

from cdtl_core.config import TaskConfig
from cdtl_core.config.schema import first_fault
from cdtl_core.deploy.applications import admit_application, applications, keep_application, remove_application
from cdtl_core.deploy.invitation import make_invitation, save_invitation
from cdtl_core.deploy.keys import spoken_end
from cdtl_core.deploy.members import Member, members, revoke
from cdtl_core.deploy.status import coordinator_status
from cdtl_core.desk.desk import Visit
from cdtl_core.errors import ConfigError
from cdtl_core.federation.contract import ModalityContract

__all__ = ["Sites"]


class Sites:
    """Pages and forms about sites.

    Args:
        folder: The coordinator's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self, visit: Visit) -> Response:
        """Show who waits for admission, and the members."""
        return visit.page(
            "server_sites.html",
            "Sites",
            waiting=list(applications(self._folder).values()),
            sites=coordinator_status(self._folder)["sites"],
            now=datetime.now(UTC).timestamp(),
        )

    def show(self, visit: Visit) -> Response:
        """Show a member."""
        member = self._member(visit.parameters["name"])
        ends = x509.load_pem_x509_certificate(member.enrolment.certificate.encode()).not_valid_after_utc
        return visit.page(
            "server_site.html",
            f"Site {member.site}",
            member=member,
            facts=_facts(member.enrolment.contract),
            ends=f"{ends:%Y-%m-%d}",
            state=coordinator_status(self._folder)["sites"][member.site],
        )

    def take(self, visit: Visit) -> Response:
        """Keep an enrolment or a renewal that a site sent."""
        if "file" not in visit.files:
            raise ConfigError("choose the enrolment.json or renewal.json that the site sent.")
        one = keep_application(self._folder, visit.files["file"].file.read())
        return visit.go(f"/applications/{one.id}")

    def application(self, visit: Visit) -> Response:
        """Show an application, its fingerprint, and what admits it."""
        one = applications(self._folder).get(visit.parameters["id"])
        if one is None:
            return visit.fault("This application does not wait any more: it was admitted or removed.", 404)
        known = {member.site: member for member in members(self._folder)}.get(one.enrolment.site)
        same = known is not None and known.enrolment.fingerprint == one.enrolment.fingerprint
        return visit.page(
            "application.html",
            f"Site {one.enrolment.site} wants to {'change its key' if one.renews else 'join'}",
            one=one,
            facts=_facts(one.enrolment.contract),
            known=known,
            same=same,
            groups=len(spoken_end(one.enrolment.fingerprint).split()),
        )

    def admit(self, visit: Visit) -> Response:
        """Admit an application whose fingerprint was compared."""
        member = admit_application(self._folder, visit.parameters["id"], visit.fields.get("spoken", ""))
        if member.former:
            until = f"{member.former.valid_until:%Y-%m-%d}"
            return visit.go("/sites", f"{member.site} has a new key; its former key is also valid until {until}.")
        return visit.go("/sites", f"{member.site} is admitted; a running coordinator accepts it at once.")

    def remove(self, visit: Visit) -> Response:
        """Remove an application without admitting it."""
        site = remove_application(self._folder, visit.parameters["id"])
        return visit.go("/sites", f"The application of {site} is removed. The site can send another.")

    def revoke(self, visit: Visit) -> Response:
        """Refuse all further requests of a site, whose name was typed."""
        site = self._member(visit.parameters["name"]).site
        if visit.fields.get("name") != site:
            raise ConfigError(f"the name that was typed is not {site}, so nothing was done.")
        revoke(self._folder, site)
        return visit.go("/sites", f"{site} is revoked; its next request is refused.")

    def ask_invitation(self, visit: Visit) -> Response:
        """Show the form of an invitation."""
        task = TaskConfig()
        return visit.page("invite.html", "Invite a site", labels=", ".join(task.labels), positive=task.positive)

    def invite(self, visit: Visit) -> Response:
        """Write an invitation and show its fingerprint; the file is in the page, to be saved."""
        labels = tuple(word.strip() for word in visit.fields.get("labels", "").split(",") if word.strip())
        try:
            task = TaskConfig(labels=labels, positive=visit.fields.get("positive", ""))
        except ValidationError as error:
            raise ConfigError(f"the labels are wrong: {first_fault(error)}.") from None
        made = make_invitation(self._folder, visit.fields.get("site", ""), task)
        target = self._folder / "invitations" / f"{made.site}.json"
        save_invitation(target, made)
        return visit.page("invited.html", f"Invitation of {made.site}", made=made, target=target)

    def invitation(self, visit: Visit) -> Response:
        """Send an invitation that was made; it holds nothing secret."""
        name = visit.parameters["name"]
        path = self._folder / "invitations" / f"{name}.json"
        known = {one.stem for one in path.parent.glob("*.json")}
        if name not in known:
            return visit.fault("There is no such invitation.", 404)
        return attachment(path.read_bytes(), f"{name}.json")

    def _member(self, name: str) -> Member:
        found = {member.site: member for member in members(self._folder)}.get(name)
        if found is None:
            raise ConfigError(f"site {name} is not admitted.")
        return found


def attachment(content: bytes, name: str) -> Response:
    """Return a JSON file to be saved under a name of a-z, 0-9, - and _."""
    json.loads(content)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type="application/json", headers=headers)


def _facts(contract: ModalityContract) -> dict[str, Any]:
    """Return what a site publishes about its cohort, for a page."""
    facts = {
        "Modality": contract.modality,
        "Patients": f"about {contract.patients}" if contract.patients else "fewer than 5",
        "Labels": f"{', '.join(contract.labels)} (positive: {contract.positive})",
        "A label belongs to": f"one {contract.unit}",
        "Images": f"{'gray' if contract.channels == 1 else 'colour'}, {contract.bit_depth} bits",
    }
    if contract.label_map:
        facts["Its own labels"] = ", ".join(f"{a} as {b or 'left out'}" for a, b in contract.label_map.items())
    return facts
