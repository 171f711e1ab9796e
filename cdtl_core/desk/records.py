"""What a site knows of the past, at its desk: rounds of runs, what left, spent privacy, and its own models."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.responses import Response

from cdtl_core.config import SiteConfig
from cdtl_core.config.folders import SITE_FILE, SiteFolder, federation_key
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.approval_list import Approval, approvals
from cdtl_core.deploy.approvals import missing_persons
from cdtl_core.deploy.log_check import Checked, check_log
from cdtl_core.deploy.records import approval_files, site_logs
from cdtl_core.deploy.status import site_status
from cdtl_core.deploy.used import used_of, used_text
from cdtl_core.desk.desk import Visit
from cdtl_core.errors import PrivacyError
from cdtl_core.federation.journal import Figures, read_diary, unprotected_runs
from cdtl_core.report.charts.figure import Table
from cdtl_core.report.egress_log import logged_lines, logged_traffic
from cdtl_core.report.find import page_of
from cdtl_core.report.page import page_html
from cdtl_core.report.records import ledger_tables
from cdtl_core.results.calling import operating_sentences
from cdtl_core.results.card import ModelCard, load_card
from cdtl_core.results.material import run_names
from cdtl_core.results.spent import meaning_of, not_covered, spent_of_site
from cdtl_core.results.text import bytes_text, estimate_text, plain, seconds_text
from cdtl_core.system.foreign import visible

__all__ = ["Records"]

_LAST = 50  # lines of a log that are shown


@dataclass(frozen=True)
class _Run:
    """An approved run, as far as this site has come in it."""

    id: str
    name: str
    method: str
    used: str
    round: int
    rounds: int
    table: Table | None


class Records:
    """The pages about the past.

    Args:
        home: The site's folder.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def runs(self, visit: Visit) -> Response:
        """Show the approved runs and their rounds; the page brings itself up to date."""
        own = load_site(self._home / SITE_FILE)
        found = [self._run(one, own) for one in approvals(self._home).values() if not missing_persons(one, own)]
        return visit.page("runs.html", "Runs", runs=found[::-1], state=site_status(self._home))

    def left(self, visit: Visit) -> Response:
        """Show what left, and whether the logs are whole."""
        checked = {name: check_log(files) for name, files in site_logs(self._home).items()}
        return visit.page(
            "left.html",
            "What left",
            checked={name: _verdict(name, one) for name, one in checked.items()},
            blocks_=logged_traffic(self._home),
            replies=_replies(self._home),
            decisions=_decisions(self._home),
        )

    def privacy(self, visit: Visit) -> Response:
        """Show what is spent of the patients' privacy."""
        own, ledgers = load_site(self._home / SITE_FILE), spent_of_site(self._home)
        return visit.page(
            "privacy.html",
            "Privacy",
            blocks_=ledger_tables(ledgers, [Path(one.folder).name for one in ledgers]),
            meanings=[meaning_of(one) for one in ledgers if one.target_delta is not None],
            faults=[sentence for one in ledgers for sentence in not_covered(one)],
            unprotected=[] if ledgers else unprotected_runs(SiteFolder(self._home)),
            cap=own.privacy.target_epsilon,
            exempt=own.privacy.exempt,
        )

    def models(self, visit: Visit) -> Response:
        """Show the site's own models."""
        cards = {folder.name: load_card(folder) for folder in SiteFolder(self._home).models()}
        return visit.page("models.html", "Models", models={name: _facts(card) for name, card in cards.items()})

    def model(self, visit: Visit) -> Response:
        """Show what is known of one model."""
        name = visit.parameters["name"]
        folder = {one.name: one for one in SiteFolder(self._home).models()}.get(name)
        if folder is None:
            return visit.fault("There is no such model.", 404)
        card = load_card(folder)
        run = next((one for one in run_names(self._home) if card and name == federation_key(one, card.method)), "")
        return visit.page(
            "model.html", f"Model {visible(name)}", name=name, card=card, facts=_facts(card), run=run,
            sentences=operating_sentences(card),
        )  # fmt: skip

    def report(self, visit: Visit) -> Response:
        """Show the site's report of a run."""
        run = visit.parameters["run"]
        if run not in run_names(self._home):
            return visit.fault("No run of this name left a model here.", 404)
        return visit.document(page_html(page_of(self._home, run=run)))

    def _run(self, approval: Approval, own: SiteConfig) -> _Run:
        settings = approval.settings
        name, method = str(settings["name"]), str(settings["method"])
        diary = read_diary(SiteFolder(self._home).diary(federation_key(name, method)), method, own.site)
        rows = [(str(one.number), *_figures(one.sites.get(own.site, {}))) for one in diary.rounds]
        headers = ("round", "training loss", "validation loss", "validation AUROC", "sent", "received", "seconds")
        table = Table(f"Rounds that this site trained in {visible(name)}", headers, rows) if rows else None
        try:
            used, last = used_text(self._home, approval.id, settings), used_of(self._home, approval.id).last_round
        except PrivacyError as error:
            used, last = str(error), 0
        return _Run(approval.id, visible(name), visible(method), used, last, int(settings["federation.rounds"]), table)


def _figures(one: Figures) -> tuple[str, ...]:
    losses = (plain(one.get(name)) for name in ("train_loss", "val_loss", "val_auroc"))
    sizes = (bytes_text(one.get(name)) for name in ("bytes_sent", "bytes_received"))
    return (*losses, *sizes, seconds_text(one.get("seconds")))


def _verdict(name: str, one: Checked) -> dict[str, Any]:
    """Return what the check of a log says, and the head to note elsewhere."""
    said = f"{len(one.faults)} FAULTS" if one.faults else "whole" if one.lines else "no line yet"
    head = f"{name}:{one.head.seq}:{one.head.hash}" if one.lines else ""
    return {"said": said, "lines": one.lines, "head": head, "faults": one.faults, "remarks": one.remarks}


def _replies(home: Path) -> Table:
    """Return the last replies, the newest first."""
    lines = deque((line for line in logged_lines(home) if line["kind"] in {"reply", "refused"}), maxlen=_LAST)
    rows = [
        (
            _moment(line),
            visible(line.get("run") or "-"),
            visible(line.get("type") or line.get("request") or ""),
            visible(line.get("round") or ""),
            visible("did not leave" if line["kind"] == "refused" else line.get("verdict", "")),
            visible(line.get("why") or ""),
            bytes_text(line.get("bytes")) if "bytes" in line else "",
        )
        for line in reversed(lines)
    ]
    return Table("The last replies", ("time", "run", "type", "round", "verdict", "why", "bytes"), rows, numbers=6)


def _decisions(home: Path) -> Table:
    """Return the last decisions of people, the newest first."""
    lines = deque(logged_lines(home, approval_files(home)), maxlen=_LAST)
    names = ("kind", "id", "signed", "note", "account")
    rows = [(_moment(line), *(visible(line.get(name) or "", 2000) for name in names)) for line in reversed(lines)]
    return Table("The last decisions", ("time", "decision", "run", "signed by", "name and reason", "account"), rows, 9)


def _moment(line: dict[str, Any]) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(line["time"])))
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""


def _facts(card: ModelCard | None) -> Sequence[tuple[str, str]]:
    """Return the facts of a model card; none without a card."""
    if card is None:
        return ()
    counts, private = card.cohort.patients, card.privacy
    promise = f"epsilon {private.epsilon_rdp:.2f}" if private.private and private.epsilon_rdp else "none"
    return (
        ("Run and method", f"{card.name}, {card.method}, {card.rounds} rounds"),
        ("Modality", card.modality),
        ("Labels", f"{', '.join(map(visible, card.labels))} (positive: {visible(card.positive)})"),
        ("AUROC on test patients", estimate_text(card.metrics.get("auroc"))),
        ("Patients", f"{counts.train} training, {counts.val} validation, {counts.test} test"),
        ("Which model", card.chosen),
        ("Differential privacy", promise),
    )
