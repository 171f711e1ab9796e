"""A site's images as rows, from a manifest, class folders, or a DICOM tree with a table of labels."""

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdtl_core.errors import DataError
from cdtl_core.system.durable import replace_bytes

__all__ = ["JOIN_COLUMNS", "Row", "rows_of", "rows_of_dicom", "rows_of_folders", "rows_of_manifest", "write_manifest"]

JOIN_COLUMNS = ("SOPInstanceUID", "AccessionNumber", "PatientID")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm"}
_COLUMNS = ("file", "label", "patient_id", "split", "group")


@dataclass(frozen=True)
class Row:
    """One image as its source lists it; label, patient and split may be empty.

    `more` holds further columns.
    """

    file: Path
    label: str
    patient: str
    split: str = ""
    group: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


def rows_of(source: Path) -> list[Row]:
    """Rows of a manifest, of a folder that holds ``manifest.csv``, or of class folders.

    Raises:
        DataError: It is none of these.
    """
    if source.is_dir():
        manifest = source / "manifest.csv"
        return rows_of_manifest(manifest) if manifest.exists() else rows_of_folders(source)
    return rows_of_manifest(source)


def rows_of_manifest(path: Path) -> list[Row]:
    """Read a manifest; a relative file is relative to the manifest's folder and lies below it.

    Raises:
        DataError: It is missing, no CSV, lacks file, label or patient_id, or a relative file leads out of its folder.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ())
            lines = [
                {key: (cell or "").strip() for key, cell in line.items() if isinstance(key, str)} for line in reader
            ]
    except FileNotFoundError:
        raise DataError(f"the manifest {path} does not exist: set data.root and data.manifest to it.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the manifest {path} cannot be read ({error}): save it as UTF-8 CSV.") from None
    missing = [column for column in _COLUMNS[:3] if column not in columns]
    if missing:
        raise DataError(f"the manifest {path} lacks the column {', '.join(missing)}: add it to the header.")
    outside = [line["file"] for line in lines if Path(os.path.normpath(line.get("file", ""))).parts[:1] == ("..",)]
    if outside:
        raise DataError(
            f"the manifest {path} names '{outside[0]}', which leads out of its folder: write a path below it."
        )
    return [_row(path.parent, line) for line in lines]


def rows_of_folders(folder: Path, *, patient_pattern: str = "") -> list[Row]:
    """Rows of class folders: ``folder/<label>/**/image``.

    The patient of a DICOM file is its PatientID; of any other file the first group of `patient_pattern` in its name,
    or empty without a pattern.

    Raises:
        DataError: There is no class folder, or the pattern is no regular expression with a group.
    """
    pattern = _pattern(patient_pattern)
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    rows = [Row(file, label.name, _patient(file, pattern)) for label in classes for file in _images(label)]
    if not rows:
        raise DataError(f"{folder} has no class folders with images: use FOLDER/<label>/<image>, or a manifest.")
    return rows


def rows_of_dicom(folder: Path, table: Path) -> tuple[list[Row], list[str]]:
    """Return the rows of a DICOM tree joined with a table of labels, and a sentence for each image or label left over.

    The table is a CSV with a column ``label`` and one of SOPInstanceUID, AccessionNumber, PatientID; the most specific
    one that it has is the join. Its columns split and group are kept.

    Raises:
        DataError: The table lacks a column, has two labels for one key, or nothing joins.
    """
    from cdtl_core.data.decode.dicom import read_tags

    key, labels = _label_table(table)
    rows, notes, used = [], [], set()
    for file in _images(folder):
        tags = read_tags(file)
        if tags is None:
            notes.append(f"{file} is not a DICOM file: left out.")
            continue
        name = {"SOPInstanceUID": tags.sop_uid, "AccessionNumber": tags.accession, "PatientID": tags.patient_id}[key]
        if name not in labels:
            notes.append(f"{file} has a {key} that the table does not list: left out.")
            continue
        used.add(name)
        line = labels[name]
        rows.append(Row(file, line["label"], tags.patient_id, line.get("split", ""), line.get("group", "")))
    unused = len(set(labels) - used)
    if unused:
        notes.append(f"{unused} of the table's {len(labels)} keys have no image.")
    if not rows:
        raise DataError(f"no image in {folder} matches {table} by {key}: check that both come from the same export.")
    return rows, notes


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as manifest.csv, atomically; files below its folder are written as relative paths."""
    found = list(rows)
    more = list(dict.fromkeys(name for row in found for name in row.more))
    lines = [[*_COLUMNS, *more]]
    for row in found:
        values = [_relative(row.file, path.parent), row.label, row.patient, row.split, row.group]
        lines.append([*values, *(row.more.get(name, "") for name in more)])
    text = "".join(",".join(_quoted(cell) for cell in line) + "\n" for line in lines)
    replace_bytes(path, text.encode())


def _row(folder: Path, line: Mapping[str, str]) -> Row:
    more = {name: value for name, value in line.items() if name not in _COLUMNS}
    file, label, patient, split, group = (line.get(name, "") for name in _COLUMNS)
    return Row(folder / file, label, patient, split, group, more)


def _images(folder: Path) -> list[Path]:
    """Return the image files below a folder in the order of their paths; a file without a suffix may be DICOM."""
    found = (Path(root) / name for root, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sorted(path for path in found if path.suffix.lower() in _SUFFIXES or not path.suffix)


def _pattern(text: str) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(text) if text else None
    except re.error as error:
        raise DataError(f"'{text}' is not a regular expression ({error}): correct --patient-pattern.") from None
    if pattern is not None and pattern.groups < 1:
        raise DataError(f"'{text}' has no group: put the patient's part in brackets, for example '(P[0-9]+)_'.")
    return pattern


def _patient(file: Path, pattern: re.Pattern[str] | None) -> str:
    from cdtl_core.data.decode.dicom import read_tags  # imported here: a site in a round does not need pydicom

    tags = read_tags(file)
    if tags is not None and tags.patient_id:
        return tags.patient_id
    match = pattern.search(file.name) if pattern else None
    return match.group(1) if match else ""


def _label_table(path: Path) -> tuple[str, dict[str, Mapping[str, str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [{key: value or "" for key, value in line.items() if key} for line in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the label table {path} cannot be read ({error}): save it as UTF-8 CSV.") from None
    columns: Sequence[str] = list(lines[0]) if lines else []
    key = next((name for name in JOIN_COLUMNS if name in columns), "")
    if not key or "label" not in columns:
        raise DataError(
            f"the label table {path} needs the column label and one of {', '.join(JOIN_COLUMNS)}: add them."
        )
    labels: dict[str, Mapping[str, str]] = {}
    for line in lines:
        if labels.setdefault(line[key], line)["label"] != line["label"]:
            raise DataError(f"the label table {path} gives two labels to one {key}: give each key one label.")
    return key, labels


def _relative(file: Path, folder: Path) -> str:
    file, folder = file.absolute(), folder.absolute()
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\r\n') else cell
