"""Runs the cohort check on files: rows of the source, facts of each file, rules."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cdtl_core.config.modalities import Modality
from cdtl_core.data.facts import examine_all
from cdtl_core.data.source import rows_of
from cdtl_core.quality import CohortCheck, Entry, check_cohort

__all__ = ["check_source"]


def check_source(
    source: Path,
    *,
    modality: Modality,
    labels: Sequence[str] = (),
    label_map: Mapping[str, str] | None = None,
    switched_off: Mapping[str, str] | None = None,
) -> CohortCheck:
    """Check a manifest, a folder with a manifest, or class folders.

    Args:
        source: Where the images are.
        modality: The declared modality.
        labels: Labels that may occur; empty: those that `label_map` names, or any.
        label_map: Local label to task label; images whose label maps to an empty text are left out.
        switched_off: Rule id to the reason.

    Raises:
        DataError: The source is none of these.
    """
    names = label_map or {}
    entries = [Entry(row.file, row.label, row.patient, row.split) for row in rows_of(source)]
    entries = [entry for entry in entries if names.get(entry.label, entry.label)]
    allowed = list(labels) or [label for label, task in names.items() if task]
    facts = examine_all([entry.file for entry in entries])
    return check_cohort(entries, facts, modality=modality, labels=allowed, switched_off=switched_off or {})
