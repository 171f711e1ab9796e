"""A site's own report, from its folder: the only one with images. In a simulation it includes the run's presence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import RunFolder, SiteFolder
from cdtl_core.config.settings import load_site, unflatten
from cdtl_core.deploy.approval_list import approvals
from cdtl_core.errors import ConfigError
from cdtl_core.federation.egress import EgressManifest, egress_manifest
from cdtl_core.federation.journal import Ending, Journal, Round, read_journal
from cdtl_core.report import sections
from cdtl_core.report.charts.blend_figures import matrix_heat, retention_sentence, shares_sentence
from cdtl_core.report.charts.styles import method_name
from cdtl_core.report.egress_log import logged_traffic
from cdtl_core.report.examples import examples
from cdtl_core.report.page import Block, Grid, Note, Page, Section
from cdtl_core.report.records import NO_PRIVACY, cohort_tables, crossed, ledger_tables, section_of
from cdtl_core.report.shared import SYNTHETIC, egress_table, journal_of, run_blocks, transfer, why_no_shares
from cdtl_core.results.material import Material, material_of, run_names
from cdtl_core.results.spent import spent_of_site

__all__ = ["site_page"]

_TIMED = "Seconds are this site's own work."
_NO_MODEL = "No run has left a model at this site yet."
_SETTINGS = "All settings are in model_card.json in the model's folder."
_NO_MATRIX = (
    "Between hospitals a site does not get the matrices of the rounds; the coordinator's report shows them. The "
    "settings they follow from are at the end of this page."
)


def site_page(home: Path, *, run: str = "") -> Page:
    """Build a site's report for a run, by default the newest that left a model.

    Raises:
        ConfigError: `home` holds no site, or no run of this name.
        CdtlError: A file is damaged.
    """
    home = home.absolute()
    own, names = load_site(SiteFolder(home).settings), run_names(home)
    if run and run not in names:
        raise ConfigError(f"no run {run} left a model in {home}: there are {', '.join(names) or 'none'}.")
    name = run or (names[-1] if names else "")
    found = material_of(home, own.site, own.modality, name, _seed(home, name))
    config = _settings(found, name, home) if found.card else None
    ended, journals = [found] if found.main else [], _journals(home, found)
    seed = config.seed if config else 0
    return Page(
        title=f"{own.site}: results of {name or 'the federation'}",
        about=f"{own.modality}; {_played(found)}.",
        status=_status(found),
        warning=SYNTHETIC if own.data.phantom is not None else "",
        sections=(
            sections.summary([found], _NO_MODEL),
            sections.discrimination(ended, seed, _NO_MODEL),
            sections.calibration(ended, _NO_MODEL),
            sections.operating(ended, _NO_MODEL),
            sections.rounds(list(found.diaries.values()), found.main, _TIMED),
            _blend(found, journals, config),
            _privacy(home, own, config),
            _egress(home, own, config, found),
            _absence(found, journals),
            section_of("cohorts", cohort_tables({own.site: found.card} if found.card else {}), _NO_MODEL),
            examples(found),
            Section(
                "run",
                run_blocks(config, _facts(found, names), _SETTINGS) if config else [],
                "" if config else _NO_MODEL,
            ),
        ),
        keep="This page shows patients' images and names files: it stays at the site.",
    )


def _settings(found: Material, run: str, home: Path) -> RunConfig:
    """Return the run's settings from the model card.

    Args:
        found: The site's results.
        run: Name of the run.
        home: The site's folder.

    Raises:
        ConfigError: The run was made with another version of cdtl, whose settings differ.
    """
    assert found.card is not None  # noqa: S101
    try:
        return unflatten(found.card.config)
    except ConfigError as error:
        version = found.card.versions.get("cdtl", "unknown")
        raise ConfigError(
            f"the run {run} in {home} was made with another version of cdtl ({version}), and its report needs that "
            f"version: name a newer run with --run ({error})"
        ) from None


def _seed(home: Path, name: str) -> int:
    """Return the run's seed, for the same intervals as elsewhere."""
    from cdtl_core.results.card import load_card

    cards = (load_card(folder) for folder in SiteFolder(home).models() if folder.name.startswith(f"{name}-"))
    return next((card.seed for card in cards if card), 0)


def _played(found: Material) -> str:
    if not found.test:
        return "no run has ended"
    return f"methods: {', '.join(method_name(method) for method in found.test)}"


def _status(found: Material) -> str:
    """Return whether the run has ended at this site."""
    if found.main is None:
        return _NO_MODEL
    return f"Completed at this site: it has its model of {method_name(found.main)}."


def _run_folder(home: Path) -> Path | None:
    """Return the simulation that this site is part of; None between hospitals."""
    folder = home.parent.parent
    return folder if home.parent.name == "sites" and RunFolder(folder).config.exists() else None


def _journals(home: Path, found: Material) -> list[Journal]:
    """Return the rounds with only this site's facts."""
    folder, site = _run_folder(home), found.site
    if folder is None:
        return []
    return [
        Journal(one.method, [_only(each, site) for each in one.rounds], one.ending)
        for one in read_journal(RunFolder(folder).journal)
    ]


def _only(one: Round, site: str) -> Round:
    return replace(
        one,
        sites={site: one.sites[site]} if site in one.sites else {},
        spent=[name for name in one.spent if name == site],
        absent=[name for name in one.absent if name == site],
        refused={name: why for name, why in one.refused.items() if name == site},
        joined=[name for name in one.joined if name == site],
        groups=one.groups,
        matrix=one.matrix,
    )


def _blend(found: Material, journals: Sequence[Journal], config: RunConfig | None) -> Section:
    donors = sections.donors([found], why_no_shares(config))
    if journals:
        journal = journal_of(journals, found.main)
        return sections.blend(journal, transfer(journal), "Nothing was shared.", donors)
    card = found.card
    if card is None or card.blend.transfer is None or card.blend.groups is None:
        return Section("blend", [*donors, Note(_NO_MATRIX)] if card else [], _NO_MODEL)
    if told := shares_sentence(card.blend.groups, card.blend.transfer):
        return Section("blend", [*donors, Note(told)])
    says = retention_sentence(card.blend.groups, card.blend.transfer)
    heat = matrix_heat("Transfer over the whole run", says, card.blend.groups, card.blend.transfer, "ends with, of")
    return Section("blend", [*donors, Grid([heat])])


def _privacy(home: Path, own: SiteConfig, config: RunConfig | None) -> Section:
    ledgers = spent_of_site(home)
    blocks = ledger_tables(ledgers, [Path(one.folder).name for one in ledgers])
    if own.privacy.exempt:
        blocks.append(Note("This site is exempt (privacy.exempt): it trains without differential privacy."))
    blocks += _audit(home)
    why = NO_PRIVACY if config is None or not config.dp.enabled else "No step with differential privacy was taken yet."
    return section_of("privacy", blocks, why)


def _audit(home: Path) -> list[Block]:
    from cdtl_core.system.foreign import read_json

    told: Mapping[str, Any] = read_json(SiteFolder(home).audit)
    if not told:
        return []
    verdict = "REFUTED" if told["refuted"] else "not refuted"
    return [
        Note(
            f"Audit of the mechanism at this site: epsilon {told['bound']:.2f} certified against a claim of "
            f"{told['claim']:.2f} with {told['canaries']} canaries: {verdict}. An audit can refute a claim, but not "
            "prove it."
        )
    ]


def _egress(home: Path, own: SiteConfig, config: RunConfig | None, found: Material) -> Section:
    blocks: list[Block] = []
    for approval in approvals(home).values():
        caption = f"Approved for {approval.settings['name']}, {method_name(str(approval.settings['method']))}"
        blocks.append(egress_table(approval.egress, caption))
    blocks += logged_traffic(home)
    if config is not None and not blocks:
        blocks.append(egress_table(_list_of(own, config), f"Egress list, {method_name(config.method)}"))
        blocks.append(Note("A simulation has no egress filter between the sites; the list follows from the settings."))
    if table := crossed(list(found.diaries.values())):
        blocks.append(table)
    return section_of("egress", blocks, "Nothing has left this site, and no run is approved.")


def _list_of(own: SiteConfig, config: RunConfig) -> EgressManifest:
    private = config.dp.enabled and not own.privacy.exempt
    labels = own.labels or config.task.labels
    return egress_manifest(config, site=own.site, modality=own.modality, labels=labels, private=private)


def _absence(found: Material, journals: Sequence[Journal]) -> Section:
    if journals:
        return sections.absence(journals)
    ended = {method: Ending(method, 0, None, {found.site: {}}) for method in found.cards}
    diaries = [replace(diary, ending=diary.ending or ended.get(method)) for method, diary in found.diaries.items()]
    section = sections.absence(diaries)
    note = Note(
        "These are the rounds that this site trained; the coordinator's report shows the presence of other sites."
    )
    return Section("absence", [*section.blocks, note] if section.blocks else [], section.why, section.lead)


def _facts(found: Material, names: Sequence[str]) -> dict[str, object]:
    card = found.card
    if card is None:
        return {}
    return {
        "cdtl of the run": card.versions.get("cdtl", "unknown"),
        "initial_weights": f"{card.initial_weights.weights}, {card.initial_weights.sha256[:16]} ...",
        "code bundle approved": card.bundle_sha256 or "none: a simulation, or unknown",
        "weights of the model": card.weights_sha256,
        "runs at this site": ", ".join(names),
    }
