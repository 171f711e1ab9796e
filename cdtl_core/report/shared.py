"""Common parts of the reports of runs, coordinators and sites."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdtl_core import __version__
from cdtl_core.config import RunConfig
from cdtl_core.config.settings import flatten
from cdtl_core.federation.egress import EgressManifest
from cdtl_core.federation.journal import Journal
from cdtl_core.federation.transfer import transfer_of
from cdtl_core.report.charts.figure import Table
from cdtl_core.report.page import Block, Note
from cdtl_core.report.records import settings_table
from cdtl_core.results.text import bytes_text

__all__ = ["SYNTHETIC", "changed_settings", "egress_table", "journal_of", "run_blocks", "transfer", "why_no_shares"]

SYNTHETIC = "Images are SYNTHETIC phantoms: the figures on this page have no medical meaning."
_TYPES = {"query.describe": "introduction, once", "train": "each round", "evaluate": "at the end"}


def transfer(journal: Journal | None) -> tuple[Sequence[str], Sequence[Sequence[float]]] | None:
    """Return groups and shares over all rounds; None if the groups changed during the run."""
    if journal is None or not journal.rounds:
        return None
    groups = list(journal.rounds[-1].groups)
    if not groups or any(list(one.groups) != groups for one in journal.rounds):
        return None
    return groups, transfer_of([np.array(one.matrix) for one in journal.rounds]).tolist()


def why_no_shares(config: RunConfig | None) -> str:
    """Return why a site has no share of each donor, by the run's settings or else for lack of patients."""
    if config is None or config.method != "cdtl" or config.pool.share == "equal":
        return "No share of each donor: this run pools in equal shares, or not at all, and sends no own heads."
    if not config.trains_only_heads:
        return (
            "No share of each donor: this run trains whole networks, and the site receives no model of the other sites "
            "of one modality that it could judge on its own patients."
        )
    return (
        "No share of each donor: that takes 20 training patients at this site, of both classes, and another site with "
        "the same labels."
    )


def journal_of(journals: Sequence[Journal], method: str | None) -> Journal | None:
    """Return the journal of a method."""
    return next((one for one in journals if one.method == method), None)


def egress_table(manifest: EgressManifest, caption: str) -> Table:
    """Return everything that may leave a site, by its egress list."""
    rows = []
    for kind, rule in manifest.replies.items():
        when = _TYPES.get(kind, kind)
        for record, tensors in rule.arrays.items():
            dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors.values()}))
            size = bytes_text(sum(tensor.bytes for tensor in tensors.values()))
            what = "after the last round" if record == "own" else when
            rows.append((what, record, f"{len(tensors)} tensors, {dtypes}", size))
        for records in (rule.metrics, rule.configs):
            rows += [(when, record, _with_ranges(names), "") for record, names in records.items()]
    return Table(caption, ("when", "record", "what", "most"), rows, numbers=3)


def _with_ranges(rules: Mapping[str, object]) -> str:
    """Return names, each with its range or its only value."""
    return ", ".join(f"{name} ({rule})" if str(rule) else name for name, rule in rules.items())


def changed_settings(config: RunConfig) -> Mapping[str, object]:
    """Return the settings that differ from the defaults."""
    defaults = flatten(RunConfig())
    return {key: value for key, value in flatten(config).items() if value != defaults[key]}


def run_blocks(
    config: RunConfig,
    facts: Mapping[str, Any],
    settings: str = "All settings are in config.toml, a valid input that gives the same run again.",
) -> list[Block]:
    """Return a table of the run, and its settings.

    Args:
        config: Settings of the run.
        facts: Rows of the table.
        settings: Says where all settings are.
    """
    rows = [(name, str(value)) for name, value in {"cdtl here": __version__, **facts}.items()]
    return [
        Table("Versions and status", ("", ""), rows, numbers=9),
        settings_table(changed_settings(config)),
        Note(settings),
    ]
