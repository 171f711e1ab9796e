"""The images that a site trains on: rows of its source, filtered by conditions, with the task's labels.

The label belongs to the unit of the task (`task.unit`): an image, an exam, or a patient with all her images. It may
stand on all rows of a unit or on some of them.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from cdtl_core.config import BoxConfig, Unit
from cdtl_core.data.box import Square, square_of
from cdtl_core.data.source import Row, rows_of_manifest
from cdtl_core.errors import ConfigError, DataError

__all__ = ["Case", "Condition", "cases_of", "keep_rows", "read_manifest"]

Condition = str | tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One file: its label (index into the task's labels), patient, and fixed split if any.

    `square` is the part that is used; None: the whole image. Files with the same `unit` are one unit of the task;
    empty: the file is a unit. `exam` is the exam's name in the manifest, if exams are the units.
    """

    file: Path
    label: int
    patient: str
    split: str = ""
    square: Square | None = None
    unit: str = ""
    exam: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells its unit from all others."""
        return self.unit, "" if self.unit else str(self.file)

    @property
    def name(self) -> str:
        """Name of its exam, or of the file."""
        return self.exam or self.file.name


def read_manifest(
    path: Path,
    *,
    labels: Sequence[str],
    label_map: Mapping[str, str] | None = None,
    where: Mapping[str, Condition] | None = None,
    box: BoxConfig | None = None,
    unit: Unit = "image",
) -> tuple[Case, ...]:
    """Read a manifest's cases; see `cases_of` for labels, `keep_rows` for conditions and `square_of` for boxes.

    Args:
        path: The manifest.
        labels: The task's labels.
        label_map: Local label to task label.
        where: Conditions on columns.
        box: Where lesions are; None: whole images.
        unit: What has a label: an image, an exam or a patient.

    Raises:
        DataError: The manifest is missing, lacks a column, names a label the task does not have, or has no box.
        ConfigError: `where` or `box` names a column that the manifest lacks, or `where` bounds one that is no number.
    """
    rows = keep_rows(rows_of_manifest(path), where or {})
    return cases_of(rows, labels=labels, label_map=label_map or {}, source=str(path), box=box, unit=unit)


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
    unit: Unit = "image",
) -> tuple[Case, ...]:
    """Rows as cases of a task.

    Args:
        rows: As `keep_rows` left them.
        labels: The task's labels; a case's label is its index here.
        label_map: Local label to task label; ``""`` leaves that label's images out. A label without an entry stands
            for itself.
        source: Names the rows in errors.
        box: Where lesions are; None: whole images are looked at.
        unit: What has a label. All rows of an exam or a patient have the same one; it may be empty on all but one.

    Raises:
        DataError: A label is not the task's, a patient or a box is missing, no image is left, or an exam has no label,
            two labels or two patients.
        ConfigError: The rows lack a column that `box` names.
    """
    listed = [(row, _case(row, source, labels, label_map, box, unit)) for row in rows]
    cases = [case for _, case in listed if case is not None]
    if unit != "image":
        left_out = {_unit_of(row, unit) for row, case in listed if case is None}
        cases = _labelled(cases, left_out, labels, source)
    if not cases:
        raise DataError(f"the manifest {source} has no image left after where and label_map: relax these settings.")
    _refuse_repeated(cases, source)
    return tuple(cases)


def _unit_of(row: Row, unit: Unit) -> str:
    """Return what tells a row's unit from others; empty: the file is the unit."""
    return {"image": "", "exam": row.exam, "patient": row.patient}[unit]


def _labelled(cases: Sequence[Case], left_out: Collection[str], labels: Sequence[str], source: str) -> list[Case]:
    """Give each case its unit's label.

    Args:
        cases: All files; the label is -1 where its cell is empty.
        left_out: Units of rows that the label map leaves out: without another label the whole unit is left out.
        labels: The task's labels.
        source: Names the manifest in errors.
    """
    units: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        units.setdefault(case.key, []).append(case)
    told: dict[tuple[str, str], int] = {}
    for key, found in units.items():
        known = sorted({case.label for case in found if case.label >= 0})
        if known:
            told[key] = known[0]
        elif not found[0].unit or found[0].unit not in left_out:
            raise DataError(
                f"the manifest {source} has no label for {_named(found)}: write it into one of its rows, or leave its "
                "rows out by data.where."
            )
        if len(known) > 1:
            words = " and ".join(f"'{labels[label]}'" for label in known)
            raise DataError(f"the manifest {source} gives {_named(found)} the labels {words}: {_one_label(found[0])}.")
        if len({case.patient for case in found}) > 1:
            raise DataError(
                f"the manifest {source} has two patients under {_named(found)}: give each exam its own exam_id."
            )
    return [replace(case, label=told[case.key]) for case in cases if case.key in told]


def _named(cases: Sequence[Case]) -> str:
    """Name a unit in a sentence: an exam by its id, a patient by two of her files."""
    files = ", ".join(dict.fromkeys(case.file.name for case in cases[:2]))
    if cases[0].exam:
        return f"the exam {cases[0].exam} ({files})"
    return f"the patient of {files}" if cases[0].unit else files


def _one_label(case: Case) -> str:
    if case.exam:
        return "correct one of them, or give the two sides or findings of a patient an exam_id each"
    return "correct one of them, or set task.unit to exam or image"


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
    row: Row, source: str, labels: Sequence[str], label_map: Mapping[str, str], box: BoxConfig | None, unit: Unit
) -> Case | None:
    """Return the row's case, with the label -1 where it is the unit's; None: the label map leaves it out."""
    label = label_map.get(row.label, row.label)
    if label == "" and row.label in label_map:
        return None
    index = labels.index(label) if label in labels else -1
    if index < 0 and row.label in label_map:
        raise DataError(
            f"data.label_map maps '{row.label}' to '{label}', and the task has {', '.join(labels)}: correct it."
        )
    if index < 0 and (unit == "image" or row.label):
        raise DataError(
            f"the manifest {source} has the label '{row.label}', and the task has {', '.join(labels)}: "
            f"map it in data.label_map, or leave its images out with '{row.label}' = \"\"."
        )
    if not row.patient:
        raise DataError(f"the manifest {source} has no patient_id for {row.file.name}: fill it in.")
    square = square_of(row.more, box, row.file.name) if box else None
    exam = row.exam if unit == "exam" else ""
    return Case(row.file, index, row.patient, row.split, square, _unit_of(row, unit), exam)
