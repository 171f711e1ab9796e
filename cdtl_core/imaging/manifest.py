"""A site's list of images: `manifest.csv` with the columns file, label, patient_id and any others."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cdtl_core.errors import ConfigError, DataError

__all__ = ["Case", "Condition", "read_manifest"]

Condition = str | tuple[str, ...]
_REQUIRED = ("file", "label", "patient_id")


@dataclass(frozen=True)
class Case:
    """One image: where it is, its label as an index into the task's labels, whose it is, its fixed split if any."""

    file: Path
    label: int
    patient: str
    split: str = ""


def read_manifest(
    path: Path,
    *,
    labels: Sequence[str],
    label_map: Mapping[str, str] | None = None,
    where: Mapping[str, Condition] | None = None,
) -> tuple[Case, ...]:
    """Read a manifest; paths in it are relative to its folder.

    Args:
        path: The CSV file.
        labels: The task's labels; a case's label is its index here.
        label_map: Local label to task label; ``""`` leaves that label's images out. A label without an entry stands
            for itself.
        where: Column to a pattern (``GE*``), a tuple of patterns, or a bound (``>=0.25``); rows that fail are left out.

    Raises:
        DataError: The manifest is missing, lacks a column, or names a label the task does not have.
        ConfigError: `where` names a column that the manifest lacks, or bounds one that is no number.
    """
    rows = _rows(path, tuple(where or {}))
    kept = [row for row in rows if all(_holds(row[column], wanted, column) for column, wanted in (where or {}).items())]
    cases = [case for row in kept if (case := _case(row, path, labels, label_map or {})) is not None]
    if not cases:
        raise DataError(f"the manifest {path} leaves no image after where and label_map: loosen them.")
    _refuse_repeated(cases, path)
    return tuple(cases)


def _refuse_repeated(cases: Sequence[Case], path: Path) -> None:
    """One image under two patients would stand in train and test."""
    seen: set[str] = set()
    for case in cases:
        file = os.path.normpath(case.file)
        if file in seen:
            raise DataError(f"the manifest {path} lists {case.file.name} twice: give each image one row.")
        seen.add(file)


def _rows(path: Path, conditions: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ())
            rows = [
                {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)} for row in reader
            ]
    except FileNotFoundError:
        raise DataError(f"the manifest {path} does not exist: set data.root and data.manifest to it.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the manifest {path} cannot be read ({error}): save it as UTF-8 CSV.") from None
    missing = [column for column in _REQUIRED if column not in columns]
    if missing:
        raise DataError(f"the manifest {path} lacks the column {', '.join(missing)}: add it to the header.")
    unknown = [column for column in conditions if column not in columns]
    if unknown:
        raise ConfigError(f"data.where names the column {unknown[0]}, the manifest has {', '.join(columns)}: use one.")
    return rows


def _holds(value: str, wanted: Condition, column: str) -> bool:
    if not isinstance(wanted, str):
        return any(_holds(value, one, column) for one in wanted)
    if not wanted.startswith((">=", "<=")):
        return fnmatchcase(value, wanted)
    try:
        number, bound = float(value), float(wanted[2:])
    except ValueError:
        raise ConfigError(
            f"data.where.{column} = '{wanted}' meets '{value}', no number: bound a numeric one."
        ) from None
    return number >= bound if wanted.startswith(">=") else number <= bound


def _case(row: Mapping[str, str], path: Path, labels: Sequence[str], label_map: Mapping[str, str]) -> Case | None:
    label = label_map.get(row["label"], row["label"])
    if label == "" and row["label"] in label_map:
        return None
    if label not in labels and row["label"] in label_map:
        raise DataError(
            f"data.label_map leads from '{row['label']}' to '{label}', the task has {', '.join(labels)}: correct it."
        )
    if label not in labels:
        raise DataError(
            f"the manifest {path} has the label '{row['label']}', the task has {', '.join(labels)}: "
            f"map it in data.label_map, or leave its images out with '{row['label']}' = \"\"."
        )
    if not row["patient_id"]:
        raise DataError(f"the manifest {path} has no patient_id for {row['file']}: fill it in.")
    return Case(path.parent / row["file"], labels.index(label), row["patient_id"], row.get("split", ""))
