"""The images that a site trains on: rows of its source, filtered by conditions, with the task's labels."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cdtl_core.config import BoxConfig
from cdtl_core.data.box import Square, square_of
from cdtl_core.data.source import Row, rows_of_manifest
from cdtl_core.errors import ConfigError, DataError

__all__ = ["Case", "Condition", "cases_of", "keep_rows", "read_manifest"]

Condition = str | tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One image: file, label (index into the task's labels), patient, and its fixed split if any.

    `square` is the part that is used; None: the whole image.
    """

    file: Path
    label: int
    patient: str
    split: str = ""
    square: Square | None = None


def read_manifest(
    path: Path,
    *,
    labels: Sequence[str],
    label_map: Mapping[str, str] | None = None,
    where: Mapping[str, Condition] | None = None,
    box: BoxConfig | None = None,
) -> tuple[Case, ...]:
    """Read a manifest's cases; see `cases_of` for labels, `keep_rows` for conditions and `square_of` for boxes.

    Args:
        path: The manifest.
        labels: The task's labels.
        label_map: Local label to task label.
        where: Conditions on columns.
        box: Where lesions are; None: whole images.

    Raises:
        DataError: The manifest is missing, lacks a column, names a label the task does not have, or has no box.
        ConfigError: `where` or `box` names a column that the manifest lacks, or `where` bounds one that is no number.
    """
    rows = keep_rows(rows_of_manifest(path), where or {})
    return cases_of(rows, labels=labels, label_map=label_map or {}, source=str(path), box=box)


def keep_rows(rows: Iterable[Row], where: Mapping[str, Condition]) -> list[Row]:
    """Return the rows that meet every condition: a pattern (``GE*``), a tuple of them, or a bound (``>=0.25``).

    Raises:
        ConfigError: A condition names a column that a row lacks, or bounds one that is no number.
    """
    return [row for row in rows if all(_holds(_cell(row, name), wanted, name) for name, wanted in where.items())]


def cases_of(
    rows: Iterable[Row],
    *,
    labels: Sequence[str],
    label_map: Mapping[str, str],
    source: str,
    box: BoxConfig | None = None,
) -> tuple[Case, ...]:
    """Rows as cases of a task.

    Args:
        rows: As `keep_rows` left them.
        labels: The task's labels; a case's label is its index here.
        label_map: Local label to task label; ``""`` leaves that label's images out. A label without an entry stands
            for itself.
        source: Names the rows in errors.
        box: Where lesions are; None: whole images are looked at.

    Raises:
        DataError: A label is not the task's, a patient or a box is missing, or no image is left.
        ConfigError: The rows lack a column that `box` names.
    """
    cases = [case for row in rows if (case := _case(row, source, labels, label_map, box)) is not None]
    if not cases:
        raise DataError(f"the manifest {source} has no image left after where and label_map: relax these settings.")
    _refuse_repeated(cases, source)
    return tuple(cases)


def _refuse_repeated(cases: Sequence[Case], source: str) -> None:
    """Refuse an image that is listed twice; under two patients it would be in both training and test."""
    seen: set[str] = set()
    for case in cases:
        file = os.path.normpath(case.file)
        if file in seen:
            raise DataError(f"the manifest {source} lists {case.file.name} twice: give each image one row.")
        seen.add(file)


def _cell(row: Row, column: str) -> str:
    own = {"file": str(row.file), "label": row.label, "patient_id": row.patient, "split": row.split, "group": row.group}
    cells = {**own, "exam_id": row.exam, **row.more}
    if column not in cells:
        raise ConfigError(f"data.where names the column {column}, the manifest has {', '.join(cells)}: use one.")
    return cells[column]


def _holds(value: str, wanted: Condition, column: str) -> bool:
    if not isinstance(wanted, str):
        return any(_holds(value, one, column) for one in wanted)
    if not wanted.startswith((">=", "<=")):
        return fnmatchcase(value, wanted)
    try:
        number, bound = float(value), float(wanted[2:])
    except ValueError:
        raise ConfigError(
            f"data.where.{column} = '{wanted}' needs numbers and the manifest has '{value}': use a numeric column."
        ) from None
    return number >= bound if wanted.startswith(">=") else number <= bound


def _case(
    row: Row, source: str, labels: Sequence[str], label_map: Mapping[str, str], box: BoxConfig | None
) -> Case | None:
    label = label_map.get(row.label, row.label)
    if label == "" and row.label in label_map:
        return None
    if label not in labels and row.label in label_map:
        raise DataError(
            f"data.label_map maps '{row.label}' to '{label}', and the task has {', '.join(labels)}: correct it."
        )
    if label not in labels:
        raise DataError(
            f"the manifest {source} has the label '{row.label}', and the task has {', '.join(labels)}: "
            f"map it in data.label_map, or leave its images out with '{row.label}' = \"\"."
        )
    if not row.patient:
        raise DataError(f"the manifest {source} has no patient_id for {row.file.name}: fill it in.")
    square = square_of(row.more, box, row.file.name) if box else None
    return Case(row.file, labels.index(label), row.patient, row.split, square)
