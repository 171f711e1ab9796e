"""The report of a whole simulation, from the files of all its sites; it shows no image."""

import json
from collections.abc import Sequence
from pathlib import Path

from cdtl_core.config import SimulationConfig
from cdtl_core.config.folders import RunFolder, SiteFolder, federation_key
from cdtl_core.config.settings import load_simulation
from cdtl_core.federation.egress import egress_manifest
from cdtl_core.federation.journal import Journal, read_diary, read_journal
from cdtl_core.report import sections
from cdtl_core.report.charts.styles import method_name
from cdtl_core.report.page import Block, Note, Page, Section
from cdtl_core.report.records import NO_PRIVACY, cohort_tables, crossed, ledger_tables, section_of
from cdtl_core.report.shared import SYNTHETIC, egress_table, journal_of, run_blocks, transfer, why_no_shares
from cdtl_core.results.material import Material, main_method, material_of
from cdtl_core.results.spent import spent_of_site

__all__ = ["run_page"]

_TIMED = "Seconds are each site's own work."
_KINDS = {False: "Simulation", True: "Trial of separate programs on one machine (cdtl try)"}
_FILTERS = {
    False: "Between hospitals an egress filter at each site holds back what is not on the list. A simulation has no "
    "egress filter.",
    True: "The egress filter of each site held back what is not on the list; each site's own report counts it.",
}


def run_page(folder: Path, *, live: bool = False) -> Page:
    """Build the report of a run directory; unfinished parts are replaced by a sentence.

    Raises:
        CdtlError: A file of the run is missing or damaged.
    """
    config = load_simulation(RunFolder(folder).config)
    run, journals = config.run, read_journal(RunFolder(folder).journal)
    homes = {site.site: RunFolder(folder).site(site.site).home for site in config.sites}
    found = [material_of(homes[site.site], site.site, site.modality, run.name, run.seed) for site in config.sites]
    main = main_method(list(config.methods))
    played = config.of_method(main or "alone")  # type: ignore[arg-type]
    timed = [_own_times(journal, homes, run.name) for journal in journals]
    waiting, ended, trial = (
        _how_far(config, journals),
        RunFolder(folder).report.exists(),
        RunFolder(folder).holds_trial(),
    )
    synthetic = [site.site for site in config.sites if site.data.phantom is not None]
    journal = journal_of(journals, main)
    no_blend = "Nothing was shared: the run has no method that shares." if main == "alone" else waiting
    return Page(
        title=f"{run.name}: results of each site",
        about=f"{_KINDS[trial]}, seed {run.seed}, {run.federation.rounds} rounds, "
        f"{', '.join(method_name(method) for method in config.methods)}, {len(config.sites)} sites.",
        status="Completed: every site has its model." if ended else f"Running. {waiting}",
        warning=SYNTHETIC if synthetic else "",
        sections=(
            sections.summary(found, waiting),
            sections.discrimination(found, run.seed, waiting),
            sections.calibration(found, waiting),
            sections.operating(found, waiting),
            sections.rounds(timed, main, _TIMED),
            sections.blend(journal, transfer(journal), no_blend, sections.donors(found, why_no_shares(played))),
            _privacy(config, folder),
            _egress(config, journals, trial=trial),
            sections.absence(journals),
            _cohorts(found),
            Section("examples", [], _no_images(folder)),
            Section("run", run_blocks(played, _facts(folder, config))),
        ),
        keep="This page holds counts and figures of whole cohorts, no image and nothing about single patients.",
        live=live and not ended,
    )


def _how_far(config: SimulationConfig, journals: Sequence[Journal]) -> str:
    if not journals:
        return "The run has not finished a round yet."
    last = journals[-1]
    done, total = len(last.rounds), config.run.federation.rounds
    if last.ending:
        return f"{method_name(last.method)} has ended; the next method has not finished a round yet."
    return f"The run is at {method_name(last.method)}, round {done} of {total}: this follows when a method has ended."


def _own_times(journal: Journal, homes: dict[str, Path], run: str) -> Journal:
    """Return the rounds with each site's own seconds: in one process sites take turns, and the server sees the sum."""
    own = {
        site: read_diary(SiteFolder(home).diary(federation_key(run, journal.method)), "", site)
        for site, home in homes.items()
    }
    seconds = {(site, one.number): one.seconds for site, diary in own.items() for one in diary.rounds}
    rounds = []
    for one in journal.rounds:
        timed = {
            site: {**{k: v for k, v in figures.items() if k != "seconds"}, "seconds": seconds.get((site, one.number))}
            for site, figures in one.sites.items()
        }
        rounds.append(type(one)(**{**vars(one), "sites": timed}))
    return Journal(journal.method, rounds, journal.ending)


def _privacy(config: SimulationConfig, folder: Path) -> Section:
    if not config.run.dp.enabled:
        return Section("privacy", [], NO_PRIVACY)
    blocks: list[Block] = []
    for site in config.sites:
        if site.privacy.exempt:
            blocks.append(Note(f"{site.site}: without differential privacy, the site is exempt."))
            continue
        ledgers = spent_of_site(RunFolder(folder).site(site.site).home)
        blocks += ledger_tables(ledgers, [f"{site.site}, {Path(one.folder).name}" for one in ledgers])
    lead = "Each method of a simulation has its own ledger. Between hospitals one ledger counts all runs."
    return section_of("privacy", blocks, "No step with differential privacy was taken yet.", lead)


def _egress(config: SimulationConfig, journals: Sequence[Journal], *, trial: bool) -> Section:
    main = main_method(list(config.methods)) or "alone"
    manifest = egress_manifest(config.of_method(main))  # type: ignore[arg-type]
    table = crossed(journals)
    blocks: list[Block] = [egress_table(manifest, f"Egress list, {method_name(main)}")]
    blocks += [table] if table else []
    return Section("egress", blocks, lead=f"The list follows from the settings. {_FILTERS[trial]}")


def _cohorts(found: Sequence[Material]) -> Section:
    cards = {one.site: one.card for one in found if one.card is not None}
    return section_of("cohorts", cohort_tables(cards), "Cards are written with the first model of each site.")


def _no_images(folder: Path) -> str:
    return f"Only a site's own report shows images: cdtl report {folder.name} --site NAME."


def _facts(folder: Path, config: SimulationConfig) -> dict[str, object]:
    report = RunFolder(folder).report
    told = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    return {
        "name": config.run.name,
        "seed": config.run.seed,
        "engine": told.get("engine", "not ended yet"),
        "cdtl of the run": told.get("cdtl_version", "not ended yet"),
        "methods": ", ".join(method_name(method) for method in config.methods),
    }
