"""The manifest of pulled images, written from the journal alone: the same journal gives the same bytes."""

from collections.abc import Iterator
from pathlib import Path

from cdtl_core.data.source import Row, write_manifest
from cdtl_core.pacs.journal import Journal, StudyRecord

__all__ = ["rows_of", "write_pulled"]


def write_pulled(out: Path, journal: Journal) -> list[Row]:
    """Write ``manifest.csv`` in a folder of pulled images, atomically, and return its rows.

    A series of slices is one row, its folder; any other image is a row. ``exam_id`` is the study. Only studies that are
    complete are listed.

    Raises:
        CheckpointError: The disk is full or read-only.
    """
    rows = list(rows_of(journal))
    write_manifest(out / "manifest.csv", rows)
    return rows


def rows_of(journal: Journal) -> Iterator[Row]:
    """Yield the rows, ordered by patient, study, series and place in the series."""
    studies = [(one.patient, name, one) for name, one in journal.studies.items() if one.is_complete]
    for _, name, study in sorted(studies, key=lambda one: one[:2]):
        yield from _rows_of_study(journal, name, study)


def _rows_of_study(journal: Journal, name: str, study: StudyRecord) -> Iterator[Row]:
    for series, arrived in sorted(study.series.items()):
        folder = journal.folder(series)
        files = sorted(arrived.files, key=lambda file: (file.number, file.name))
        paths = [folder] if arrived.is_volume else [folder / file.name for file in files]
        for path in paths:
            yield Row(path, study.label, study.patient, more={"device": arrived.device}, exam=name)
