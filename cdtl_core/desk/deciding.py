"""Requests at the site's desk: what a run asks for, and a person's decision, by the rules of `cdtl site approve`."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import Response

from cdtl_core.config import SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import load_site
from cdtl_core.deploy import approval_list
from cdtl_core.deploy import approvals as approving
from cdtl_core.deploy.pending import known_request, pending
from cdtl_core.deploy.persons import Signer, open_signer
from cdtl_core.deploy.refusing import Refusal, refusals, refuse
from cdtl_core.deploy.request import ApprovalRequest, read_request, request_id
from cdtl_core.deploy.terms import Terms, budget_text, changed_settings, examine, limits_text, privacy_text
from cdtl_core.deploy.used import used_text
from cdtl_core.desk.desk import Visit
from cdtl_core.errors import CdtlError, CheckpointError, ConfigError
from cdtl_core.federation.egress import egress_hash
from cdtl_core.report.charts.figure import Table
from cdtl_core.report.shared import egress_table
from cdtl_core.system.foreign import visible

__all__ = ["REQUEST_BYTES", "Deciding"]

REQUEST_BYTES = 1 << 20
"""Most bytes of a request: its list names every tensor, and every site may be named."""
_MOST_GIVEN = 16
_MOST_NOTE = 2000
_MOST_SETTING = 2000


class Deciding:
    """The pages about requests.

    Args:
        home: The site's folder.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._given: dict[str, ApprovalRequest] = {}
        self._terms: dict[tuple[str, int], Terms] = {}

    def list(self, visit: Visit, fault: str = "") -> Response:
        """Show the runs that wait, and those that were decided."""
        own, found = load_site(self._home / SITE_FILE), approval_list.approvals(self._home)
        missing = {id: approving.missing_persons(one, own) for id, one in found.items()}
        return visit.page(
            "requests.html",
            "Requests",
            status=400 if fault else 200,
            fault=fault,
            waiting=list(pending(self._home).values()),
            given={id: one for id, one in self._given.items() if id not in found},
            missing=missing,
            approved=found,
            used={id: _used(self._home, id, one.settings) for id, one in found.items()},
            refused=refusals(self._home),
        )

    def take(self, visit: Visit) -> Response:
        """Take a ``request.json`` that the coordinator sent by other means."""
        upload = visit.files.get("request")
        if upload is None:
            return self.list(visit, "Choose the file request.json that the coordinator sent.")
        try:
            request = read_request(upload.file.read(), Path(visible(upload.filename)))
        except ConfigError as error:
            return self.list(visit, str(error))
        id = request_id(request.bundle_sha256, request.settings)
        self._given = dict([*self._given.items(), (id, request)][-_MOST_GIVEN:])
        return visit.go(f"/requests/{id}")

    def show(self, visit: Visit, fault: str = "") -> Response:
        """Show what a run asks for, and the forms to decide."""
        id, own = visit.parameters["id"], load_site(self._home / SITE_FILE)
        terms, wrong, budget = None, "", ""
        try:
            request = self._request(id)
        except ConfigError as error:
            return self._show_unfit(visit, error, fault)
        try:
            terms = self._checked(request, own)
            budget = budget_text(self._home, terms.config, own)
        except CdtlError as error:
            terms, wrong = None, str(error)
        approved, refused = approval_list.approvals(self._home).get(id), refusals(self._home).get(id)
        return visit.page(
            "request.html",
            f"Run {request.name}",
            status=400 if fault else 200,
            id=id,
            request=request,
            fault=fault,
            wrong=wrong,
            terms=terms,
            tables=_tables(terms) if terms else [],
            limits=limits_text(terms.config) if terms else "",
            privacy=privacy_text(terms.config, own) if terms else "",
            budget=budget,
            shown=_shown(terms, own, refused) if terms else "",
            approved=approved,
            used=_used(self._home, id, approved.settings) if approved else "",
            missing=approving.missing_persons(approved, own) if approved else "",
            refused=refused,
            people=own.approval.people,
            persons=sorted(own.approval.keys),
            typed=visit.fields,
        )

    def _show_unfit(self, visit: Visit, error: ConfigError, fault: str) -> Response:
        """Show a waiting run of which this version of cdtl can show no more than its name: it can be refused."""
        run = pending(self._home).get(visit.parameters["id"])
        if run is None:
            raise error
        title, status = f"Run {run.name or run.id}", 400 if fault else 200
        return visit.page(
            "unfit.html", title, status=status, id=run.id, wrong=str(error), fault=fault, typed=visit.fields
        )

    def approve(self, visit: Visit) -> Response:
        """Approve a run, in a person's name and with the key that site.toml asks for."""
        id, own = visit.parameters["id"], load_site(self._home / SITE_FILE)
        request = self._request(id)
        try:
            note = _note(visit.fields, "approve")
            if visit.fields.get("read") != "yes":
                raise ConfigError("confirm that you have read what may leave: then approve.")
            terms, refused = self._checked(request, own), refusals(self._home).get(id)
            if visit.fields.get("shown") != _shown(terms, own, refused):
                raise ConfigError(
                    "what the page showed is out of date: site.toml was changed, or the run was refused meanwhile. "
                    "Read it again, then approve."
                )
            approval = approving.approve(self._home, request, own, note=note, signer=_signer(visit, own))
        except CdtlError as error:
            return self.show(visit, str(error))
        missing = approving.missing_persons(approval, own)
        self._given.pop(id, None)
        said = "Your approval is signed." if missing else f"The run {request.name} is approved."
        return visit.go(f"/requests/{id}" if missing else "/requests", said)

    def refuse(self, visit: Visit) -> Response:
        """Refuse a run, in a person's name."""
        id = visit.parameters["id"]
        name = self._name(id)
        try:
            refuse(self._home, id, name, note=_note(visit.fields, "refuse"))
        except CdtlError as error:
            return self.show(visit, str(error))
        self._given.pop(id, None)
        return visit.go("/requests", f"The run {name} is refused.")

    def withdraw(self, visit: Visit) -> Response:
        """Withdraw an approval; nothing more of the run is sent."""
        try:
            approval_list.withdraw(self._home, visit.parameters["id"], note=_note(visit.fields, "withdraw"))
        except CheckpointError as error:  # it may be withdrawn all the same, and then no page is left of it
            return visit.fault(str(error), 500)
        except CdtlError as error:
            return self.show(visit, str(error))
        return visit.go("/requests", "The approval is withdrawn: nothing more of this run is trained or sent.")

    def _name(self, id: str) -> str:
        """Return the name of a run, also of one whose settings this version of cdtl cannot read."""
        names = {id: one.name for id, one in refusals(self._home).items()}
        names |= {id: visible(one.settings.get("name", "")) for id, one in approval_list.approvals(self._home).items()}
        names |= {id: one.name for id, one in (pending(self._home) | self._given).items()}
        if id not in names:
            raise ConfigError(f"no run {visible(id)} waits here or was decided here.")
        return names[id]

    def _request(self, id: str) -> ApprovalRequest:
        request = self._given.get(id) or known_request(self._home, id)
        if request is None:
            raise ConfigError(f"no run {visible(id)} waits here or was decided here.")
        return request

    def _checked(self, request: ApprovalRequest, own: SiteConfig) -> Terms:
        """Return what `cdtl site approve` finds out about a request; worked out once for each state of site.toml.

        Two requests with one id can differ in what they show, so the whole request is the key.
        """
        key = (request.model_dump_json(), (self._home / SITE_FILE).stat().st_mtime_ns)
        if key not in self._terms:
            self._terms = dict([*self._terms.items(), (key, examine(request, own))][-_MOST_GIVEN:])
        return self._terms[key]


def _shown(terms: Terms, own: SiteConfig, refused: Refusal | None) -> str:
    """Return the hash of what a person reads before approving; a form with another one is of an older page."""
    read = (
        terms.request.model_dump_json(),
        egress_hash(terms.egress),
        terms.sentences,
        privacy_text(terms.config, own),
        own.approval.model_dump(mode="json"),
        refused.refused_at if refused else None,
    )
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def _tables(terms: Terms) -> tuple[Table, ...]:
    changed = changed_settings(terms.request.settings)
    rows = [(visible(key), visible(value, _MOST_SETTING)) for key, value in changed.items()]
    settings = Table("Settings that differ from the defaults", ("setting", "value"), rows, numbers=9)
    return (egress_table(terms.egress, "Everything that may leave this site in this run"), settings)


def _note(fields: Mapping[str, str], form: str) -> str:
    """Return name and reason on one line, as the log of approvals keeps them.

    Raises:
        ConfigError: One is missing.
    """
    name, reason = (" ".join(fields.get(f"{form}_{what}", "").split()) for what in ("name", "reason"))
    if not name or not reason:
        raise ConfigError("give your name and a reason: both are kept in the log of approvals.")
    return visible(f"{name}: {reason}", _MOST_NOTE)


def _signer(visit: Visit, own: SiteConfig) -> Signer | None:
    """Return the person's opened key where site.toml names who may approve.

    Raises:
        ConfigError: The key or its passphrase is missing or wrong.
    """
    if not own.approval.keys:
        return None
    upload = visit.files.get("key")
    if upload is None:
        raise ConfigError("choose your key file: site.toml names who may approve, and each signs with a key.")
    passphrase = visit.fields.get("passphrase", "")
    return open_signer(upload.file.read(), visit.fields["approve_name"], passphrase, Path(visible(upload.filename)))


def _used(home: Path, id: str, settings: Any) -> str:
    try:
        return used_text(home, id, settings)
    except CdtlError as error:
        return str(error)
