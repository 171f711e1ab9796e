"""The report of a simulation, from what the coordinator and the sites wrote; one machine may read them all.

Nothing is written here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cdtl_core import __version__
from cdtl_core.config import SimulationConfig, SiteConfig
from cdtl_core.config.folders import RunFolder, SiteFolder, federation_key
from cdtl_core.data.cohort import Cohort
from cdtl_core.errors import CheckpointError
from cdtl_core.federation.contract import label_hash
from cdtl_core.federation.journal import Journal, read_journal
from cdtl_core.federation.round import round_matrices
from cdtl_core.federation.state import Member, start
from cdtl_core.federation.transfer import retention_of
from cdtl_core.privacy.ledger_file import read_ledger
from cdtl_core.results.material import material_of
from cdtl_core.results.report import Bytes, Counts, Privacy, Report, SiteReport
from cdtl_core.results.spent import spent_of
from cdtl_core.site.home import open_site
from cdtl_core.site.spending import is_private

__all__ = ["gather_report"]


def gather_report(config: SimulationConfig, out: RunFolder, engine: str) -> Report:
    """Build the report of a finished run.

    Args:
        config: Of the simulation.
        out: Its folder.
        engine: That played it.

    Raises:
        CheckpointError: A site holds no scores of a method.
    """
    journals = {journal.method: journal for journal in read_journal(out.journal)}
    cohorts = [_cohort(config, out.site(site.site)) for site in config.sites]
    return Report(
        cdtl_version=__version__,
        name=config.run.name,
        seed=config.run.seed,
        engine=engine,
        rounds=config.run.federation.rounds,
        methods=config.methods,
        unit=config.run.task.unit,
        blend=_blend_summary(config, cohorts),
        sites=tuple(
            _site_report(config, site, out.site(site.site), cohort, [journals[method] for method in config.methods])
            for site, cohort in zip(config.sites, cohorts, strict=True)
        ),
    )


def _site_report(
    config: SimulationConfig, site: SiteConfig, folder: SiteFolder, cohort: Cohort, journals: Sequence[Journal]
) -> SiteReport:
    run = config.run
    found = material_of(folder.home, site.site, site.modality, run.name, run.seed, config.methods)
    if missing := [method for method in config.methods if method not in found.test]:
        raise CheckpointError(f"{folder.model(federation_key(run.name, missing[0]))} holds no scores: resume the run.")
    return SiteReport(
        name=site.site,
        modality=site.modality,
        synthetic=site.data.phantom is not None,
        num_patients=cohort.num_patients,
        patients=_counts(cohort, "num_patients"),
        images=_counts(cohort, "num_images"),
        results=dict(found.results),
        gain=dict(found.gain),
        log_loss_change=dict(found.log_loss_change),
        selection=found.selection if "cdtl" in config.methods else None,
        bytes_per_round={one.method: _bytes(one, folder, site.site) for one in journals if one.method != "alone"},
        privacy={one.method: _privacy(config, one, folder, site.site) for one in journals}
        if is_private(site, run)
        else {},
    )


def _cohort(config: SimulationConfig, folder: SiteFolder) -> Cohort:
    return open_site(folder.home, config.of_method(config.methods[0])).cohort


def _privacy(config: SimulationConfig, journal: Journal, folder: SiteFolder, site: str) -> Privacy:
    """Return the contents of a method's ledger."""
    key = federation_key(config.run.name, journal.method)
    ledger = read_ledger(folder.ledger(key))
    plan, spent = ledger.plan_of(key), spent_of(ledger, folder.ledger(key))
    return Privacy(
        target_epsilon=plan.target_epsilon if plan else config.run.dp.target_epsilon,
        target_delta=config.run.dp.target_delta,
        epsilon_rdp=spent.epsilon_rdp,
        epsilon_prv=spent.epsilon_prv,
        steps=sum(one.steps for one in ledger.history),
        spent_in_round=min((one.number for one in journal.rounds if site in one.spent), default=None),
    )


def _bytes(journal: Journal, folder: SiteFolder, site: str) -> Bytes:
    """Mean over rounds, without the initial weights, which are received once in a site's life and counted apart."""
    rounds: list[Any] = [one.sites[site] for one in journal.rounds if site in one.sites]
    received = [entry["bytes_received"] - entry.get("initial_weights_bytes", 0) for entry in rounds]
    weights = folder.all_initial_weights.glob("*.safetensors")
    return Bytes(
        sent=round(np.mean([entry["bytes_sent"] for entry in rounds])),
        received=round(np.mean(received)),
        initial_weights_received=sum(path.stat().st_size for path in weights),
    )


def _blend_summary(config: SimulationConfig, cohorts: Sequence[Cohort]) -> dict[str, Any]:
    """The blend's settings and what they leave of each modality's own offset at the end."""
    if "cdtl" not in config.methods:
        return {}
    run = config.of_method("cdtl")
    members = [
        Member(site.site, site.modality, cohort.folds["train"].num_patients, label_hash(cohort.labels))
        for site, cohort in zip(config.sites, cohorts, strict=True)
    ]
    state = start(members, run)
    values = retention_of(round_matrices(state, run))
    return {**run.blend.model_dump(mode="json"), "retention": dict(zip(state.offsets, values, strict=True))}


def _counts(cohort: Cohort, name: str) -> Counts:
    return Counts(**{split: getattr(fold, name) for split, fold in cohort.folds.items()})
