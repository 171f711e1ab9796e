"""A site's images as the rows of a manifest, read and written."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cdtl_core.errors import DataError
from cdtl_core.system.durable import replace_bytes

__all__ = ["Row", "check_files", "read_table", "rows_of_manifest", "write_manifest"]

_COLUMNS = ("file", "label", "patient_id", "split", "group")
_EXAM = "exam_id"  # written only if an image has one
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Row:
    """One image as its source lists it; label, patient and split may be empty.

    `more` holds further columns. `exam` names the exam that the image belongs to; empty: the image is its own exam.
    """

    file: Path
    label: str
    patient: str
    split: str = ""
    group: str = ""
    more: Mapping[str, str] = field(default_factory=dict)
    exam: str = ""


def rows_of_manifest(path: Path) -> list[Row]:
    """Read a manifest; a relative file is relative to the manifest's folder and lies below it.

    Raises:
        DataError: It is missing, no table, lacks file, label or patient_id, has a row without a file, or a relative
            file leads out of its folder.
    """
    columns, lines = read_table(path, "manifest", "set data.root and data.manifest to it")
    missing = [column for column in _COLUMNS[:3] if column not in columns]
    if missing:
        raise DataError(f"the manifest {path} lacks the column {', '.join(missing)}: add it to the header.")
    check_files(path, lines)
    return [_row(path.parent, line) for line in lines]


def check_files(path: Path, lines: Iterable[Mapping[str, str]]) -> None:
    """Refuse lines of a manifest without a file, or with a relative one that leads out of the manifest's folder.

    Raises:
        DataError: A line is so.
    """
    for file in (line.get("file", "") for line in lines):
        if not file:
            raise DataError(f"the manifest {path} has a row without a file: fill it in, or remove the row.")
        if Path(os.path.normpath(file)).parts[:1] == ("..",):
            raise DataError(
                f"the manifest {path} names '{file}', which leads out of its folder: write a path below it."
            )


def read_table(path: Path, what: str, advice: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Return the columns and lines of a text table as spreadsheets save it.

    It is separated by commas, semicolons or tabs, in UTF-8, UTF-16 (which Excel calls Unicode) or Windows-1252.

    Args:
        path: The file.
        what: What it is, for errors.
        advice: What to do if it does not exist.

    Raises:
        DataError: It is missing, or no text table.
    """
    try:
        text = _text(path.read_bytes())
        separator = max(",;\t", key=lambda one: len(next(csv.reader(io.StringIO(text, newline=""), delimiter=one), [])))
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        columns = tuple(reader.fieldnames or ())
        lines = [{key: (cell or "").strip() for key, cell in line.items() if isinstance(key, str)} for line in reader]
    except FileNotFoundError:
        raise DataError(f"the {what} {path} does not exist: {advice}.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the {what} {path} cannot be read ({error}): save it as UTF-8 CSV.") from None
    return columns, lines


def _text(content: bytes) -> str:
    if b"\0" in content and content[:2] not in _UTF_16:
        raise csv.Error("it is not text")
    if content[:2] in _UTF_16:
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as manifest.csv, atomically; files below its folder are written as relative paths."""
    found = list(rows)
    more = list(dict.fromkeys(name for row in found for name in row.more))
    exam = [_EXAM] if any(row.exam for row in found) else []
    lines = [[*_COLUMNS, *exam, *more]]
    for row in found:
        values = [_relative(row.file, path.parent), row.label, row.patient, row.split, row.group]
        values += [row.exam] if exam else []
        lines.append([*values, *(row.more.get(name, "") for name in more)])
    text = "".join(",".join(_quoted(cell) for cell in line) + "\n" for line in lines)
    replace_bytes(path, text.encode())


def _row(folder: Path, line: Mapping[str, str]) -> Row:
    more = {name: value for name, value in line.items() if name not in (*_COLUMNS, _EXAM)}
    file, label, patient, split, group = (line.get(name, "") for name in _COLUMNS)
    return Row(folder / file, label, patient, split, group, more, line.get(_EXAM, ""))


def _relative(file: Path, folder: Path) -> str:
    file, folder = file.absolute(), folder.absolute()
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\r\n') else cell
