"""The coordinator's report of a run, from the facts it has: no image, no score, nothing about single patients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import load_run
from cdtl_core.deploy.members import members
from cdtl_core.deploy.request import ApprovalRequest, load_request
from cdtl_core.deploy.runs import ENDED, load_run_state, run_folders
from cdtl_core.errors import ConfigError
from cdtl_core.federation.contract import ModalityContract
from cdtl_core.federation.journal import Journal, read_journal
from cdtl_core.report import sections
from cdtl_core.report.charts.figure import Figure, Sheet, Table
from cdtl_core.report.charts.styles import method_name
from cdtl_core.report.page import Block, Grid, Headline, Headlines, Note, Page, Section
from cdtl_core.report.records import NO_PRIVACY, crossed
from cdtl_core.report.shared import egress_table, run_blocks, transfer
from cdtl_core.results.report import Estimate
from cdtl_core.results.text import estimate_text

__all__ = ["coordinator_page", "newest_run"]

_AT_SITES = (
    "Scores of patients never leave a site, so only each site's own report shows this: run cdtl report DIR there."
)
_TIMED = "Seconds are from the request to a site's answer, including waiting."


def newest_run(folder: Path, name: str = "") -> Path:
    """Return a coordinator's run by name, or else its newest run.

    Raises:
        ConfigError: There is none.
    """
    if name:
        if not (folder / "runs" / name / "request.json").exists():
            raise ConfigError(f"{folder} holds no run {name}: cdtl server status lists the runs.")
        return folder / "runs" / name
    found = list(run_folders(folder))
    if not found:
        raise ConfigError(f"{folder} has no run yet: start one with cdtl server run.")
    return found[-1]


def coordinator_page(run: Path, *, live: bool = False) -> Page:
    """Build the report of a coordinator's run folder.

    Raises:
        CdtlError: A file of it is missing or damaged.
    """
    run = run.absolute()
    config, request = load_run(RunFolder(run).config), load_request(run / "request.json")
    journals, contracts = read_journal(RunFolder(run).journal), _contracts(run.parent.parent, request.sites)
    journal = journals[-1] if journals else None
    state = load_run_state(run)
    status = state.status if state else "not requested"
    return Page(
        title=f"{config.name}: the coordinator's report",
        about=f"{method_name(config.method)}, {config.federation.rounds} rounds, {len(request.sites)} sites.",
        status=_status(status, state.reason if state else "", journal, config.federation.rounds),
        warning="",
        sections=(
            _summary(journal, contracts, request.sites, status, config.method),
            *(Section(id, [], _AT_SITES) for id in ("discrimination", "calibration", "operating")),
            sections.rounds(journals, config.method, _TIMED),
            sections.blend(journal, transfer(journal), "No round has ended yet."),
            _privacy(config, journal),
            _egress(request, journals),
            sections.absence(journals),
            _cohorts(contracts),
            Section("examples", [], "Images never leave a site: only the site's own report shows some."),
            Section("run", run_blocks(config, _facts(request, status, state.reason if state else ""))),
        ),
        keep="This page holds the facts that the coordinator has: no image, no score, nothing about single patients.",
        live=live and status not in ENDED,
    )


def _status(status: str, reason: str, journal: Journal | None, rounds: int) -> str:
    """Return the state of the run in a sentence.

    Args:
        status: Of the run.
        reason: Why it ended.
        journal: Its rounds.
        rounds: Number of rounds that it has.
    """
    if status == "completed":
        return "Completed: every site has its model."
    done = f"{len(journal.rounds) if journal else 0} of {rounds} rounds are complete"
    return f"{status.capitalize()}: {done}.{f' {reason}' if reason else ''}"


def _summary(
    journal: Journal | None, contracts: Mapping[str, ModalityContract], sites: Sequence[str], status: str, method: str
) -> Section:
    ends: Mapping[str, Mapping[str, Any]] = journal.ending.sites if journal and journal.ending else {}
    missing = journal.ending.missing if journal and journal.ending else {}
    done = len(journal.rounds) if journal else 0
    items = []
    for site in sites or sorted({*ends, *contracts}):
        about = contracts[site].modality if site in contracts else ""
        if site in missing:
            items.append(Headline(site, about, "open", f"It has no model of this run: {missing[site]}."))
        elif site not in ends:
            items.append(Headline(site, about, "open", f"Not ended: {done} rounds are complete, the run is {status}."))
        else:
            items.append(Headline(site, about, "done", *_told(ends[site], method)))
    note = Note(
        "Only the site knows whether it gained over local training: the comparison is paired by patient, and "
        "patients' scores stay there."
    )
    return Section("summary", [Headlines(items), note])


def _told(end: Mapping[str, Any], method: str) -> tuple[str, list[str]]:
    if end.get("test_auroc") is None:
        return "It has its model. It trains with differential privacy and sends no figure about it.", []
    found = Estimate(value=end["test_auroc"], low=end.get("test_auroc_low"), high=end.get("test_auroc_high"))
    chosen = end.get("chosen") or "not sent"
    words = {
        "pool": "the pool of its own and the joint model",
        "own": "its own, trained locally",
        "joint": "the joint one",
    }
    more = [f"Model used: {words.get(chosen, chosen)}."] if method == "cdtl" else []
    return f"AUROC of the model it uses, on its test patients: {estimate_text(found)}.", more


def _privacy(config: RunConfig, journal: Journal | None) -> Section:
    if not config.dp.enabled:
        return Section("privacy", [], NO_PRIVACY)
    dp = config.dp
    spent = {site: one.number for one in reversed(journal.rounds if journal else ()) for site in one.spent}
    rows = [
        ("budget of each training patient", f"epsilon {dp.target_epsilon:g} at delta {dp.target_delta:g}"),
        ("of all sites", "yes" if dp.required else "no, a site may be exempt"),
        ("steps a round", str(config.train.steps)),
        ("clip", f"{dp.max_grad_norm:g}"),
    ]
    rows += [(f"{site}: budget spent", f"before round {number}") for site, number in spent.items()]
    note = Note("What was spent is in each site's ledger, which stays there: cdtl privacy ledger DIR.")
    return Section("privacy", [Table("Terms that every site approved", ("", ""), rows, numbers=9), note])


def _egress(request: ApprovalRequest, journals: Sequence[Journal]) -> Section:
    blocks: list[Block] = [egress_table(request.egress, "The egress list that the sites approved")]
    table = crossed(journals)
    blocks += [table] if table else []
    lead = (
        "An egress filter at each site holds back what is not on the list. "
        "Each site's own log counts every byte that left."
    )
    return Section("egress", blocks, lead=lead)


def _contracts(folder: Path, sites: Sequence[str]) -> dict[str, ModalityContract]:
    found = (
        {member.site: member.enrolment.contract for member in members(folder)} if (folder / "sites").exists() else {}
    )
    return {site: contract for site, contract in found.items() if site in sites}


def _cohorts(contracts: Mapping[str, ModalityContract]) -> Section:
    sheets: list[Figure] = []
    for site, one in contracts.items():
        rows = [
            ("patients, rounded to tens", f"{one.patients}" if one.patients else "fewer than 5"),
            ("labels", f"{', '.join(one.labels)}; positive: {one.positive}"),
            ("images", f"{'gray' if one.channels == 1 else 'colour'}, {one.bit_depth} bits"),
        ]
        if one.label_map:
            rows.append(("local labels", ", ".join(f"{a} as {b or 'left out'}" for a, b in one.label_map.items())))
        sheets.append(Sheet(Table(f"{site}, {one.modality}", ("", ""), rows, numbers=9), "As the site enrolled."))
    why = "" if sheets else "No site of this run is enrolled with this coordinator."
    return Section("cohorts", [Grid(sheets, wide=True)] if sheets else [], why)


def _facts(request: ApprovalRequest, status: str, reason: str) -> dict[str, object]:
    return {
        "cdtl of the run": request.cdtl_version,
        "status": f"{status}. {reason}" if reason else status,
        "code bundle (SHA-256)": request.bundle_sha256,
        "sites": ", ".join(request.sites),
    }
