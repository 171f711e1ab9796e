"""Rows of images whose labels stand in a table: joined by file, by DICOM header, or by patient."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.data.decode.picture import DicomTags
from cdtl_core.data.listing.exams import ExamsBy, arrange_slices, name_exams, side_of
from cdtl_core.data.listing.files import Found, Listing, ending_of, find_images, named, read_headers
from cdtl_core.data.listing.folders import split_of
from cdtl_core.data.listing.patients import is_patient_column
from cdtl_core.data.listing.pattern import parse_pattern
from cdtl_core.data.source import Row, read_table
from cdtl_core.errors import DataError

__all__ = ["list_labelled"]

_KEYS = ("file", "SOPInstanceUID", "SeriesInstanceUID", "AccessionNumber", "StudyInstanceUID", "patient_id")
"""Columns that join, the most specific first."""
_TAGS = {"SOPInstanceUID": "sop_uid", "SeriesInstanceUID": "series_uid"}
_TAGS |= {"AccessionNumber": "accession", "StudyInstanceUID": "study_uid"}
_KNOWN = (*_KEYS, "label", "split", "group", "exam_id", "laterality")
_ALIASES = {"patientid": "patient_id"}


@dataclass(frozen=True)
class _Table:
    """A table with the columns under the names of a manifest.

    Attributes:
        path: The file.
        key: The column that joins.
        lines: By key, first occurrence first; by key and side if the table tells labels by side.
        more: Further columns to keep.
        patient_column: A column that seems to hold the patient; empty if there is none, or if patient_id is known.
    """

    path: Path
    key: str
    lines: Mapping[str, Mapping[str, str]]
    more: tuple[str, ...]
    patient_column: str
    by_side: bool = False

    def key_of(self, key: str, side: str) -> str:
        """Return the key of a line."""
        return f"{key} {side}" if self.by_side else key


def list_labelled(
    folder: Path,
    table: Path,
    pattern: str = "",
    columns: Mapping[str, str] | None = None,
    *,
    series: bool = False,
    exams: ExamsBy = "study",
) -> Listing:
    """Return the images below a folder that a table gives a label.

    The table is text with commas, semicolons or tabs. Its column ``label`` and one of ``file``, ``SOPInstanceUID``,
    ``AccessionNumber`` and ``patient_id`` (or ``PatientID``) are used, also ``SeriesInstanceUID`` and
    ``StudyInstanceUID``, the most specific first; ``split``, ``group`` and ``exam_id`` are kept. With a column
    ``laterality`` (L, R) a line is about one side. A file may be written as a path, as a name, or without its ending.
    The patient is that of the table, else of the pattern, else of the DICOM header; a patient of the table may also be
    the name of a folder.

    Args:
        folder: The images.
        table: The table.
        pattern: Where the patient is in the path, see `parse_pattern`.
        columns: Column of the manifest to the table's name for it; names that a manifest does not know are kept.
        series: Whether a folder of DICOM slices is one row, instead of one for each slice.
        exams: Whether a DICOM study or a series is an exam.

    Raises:
        DataError: The table is missing, lacks a column, gives an image two labels, or names no image.
    """
    content = read_table(table, "label table", "correct --labels")
    found = find_images(folder)
    tags, notes = read_headers(found)
    tags, merged = arrange_slices(found, tags, series)
    notes += merged
    read = _table(table, content, columns or {}, found)
    paths = {image: found.path_of(image) for image in tags}
    told = _told(read, paths, tags, pattern)
    joined = _join(read, paths, tags, told)
    rows = [_row(image, read, read.lines[key], told[image]) for image, key in joined.items()]
    rows = [row for row in rows if row.label]
    if not rows:
        raise DataError(
            f"no image in {folder} is in {table} by {read.key}: the table has for example "
            f"'{next(iter(read.lines), '')}' and the folder '{next(iter(paths.values()))}'. Check that both come "
            "from the same export, or name another column with --column."
        )
    notes += _left_over(read, paths, {row.file for row in rows}, set(joined.values()))
    layout = f"{folder} with the labels of {table} by {read.key}"
    named_rows, more = name_exams(rows, tags, exams, label_by_side=read.by_side)
    return Listing(named_rows, (*notes, *more), layout, read.patient_column)


def _left_over(table: _Table, paths: Mapping[Path, str], labelled: set[Path], used: set[str]) -> list[str]:
    """Return a sentence for images without a label, and one for keys without an image.

    Args:
        table: The table.
        paths: Image to its path below the folder.
        labelled: Images with a label.
        used: Keys with an image.
    """
    notes, missed = [], [path for image, path in paths.items() if image not in labelled]
    if missed:
        have = "1 image has" if len(missed) == 1 else f"{len(missed)} images have"
        notes.append(f"{have} no label in {table.path}, left out: {named(missed)}.")
    unused = len(set(table.lines) - used)
    if unused:
        notes.append(f"{unused} of the {len(table.lines)} keys in {table.path} have no image.")
    return notes


def _table(
    path: Path, content: tuple[Sequence[str], list[dict[str, str]]], given: Mapping[str, str], found: Found
) -> _Table:
    """Return the table under the names of a manifest.

    Args:
        path: The file.
        content: Its columns and lines.
        given: Column of the manifest to its name here.
        found: The images.
    """
    columns, lines = content
    if wrong := [name for name in given.values() if name not in columns]:
        raise DataError(f"the label table {path} has no column '{wrong[0]}': it has {', '.join(columns)}.")
    names = {target: column for column in columns if (target := _target(column)) is not None} | dict(given)
    key = next((name for name in _KEYS if name in names), "")
    if not key or "label" not in names:
        raise DataError(
            f"the label table {path} has the columns {', '.join(columns) or '(none)'} and needs label and one of "
            f"{', '.join(_KEYS)}: say which is which, for example {_proposal(columns, lines, names, found)}"
        )
    by_key: dict[str, dict[str, str]] = {}
    by_side = "laterality" in names and key != "file"
    for line in lines:
        told = {target: line[column] for target, column in names.items()}
        place = f"{told[key]} {side_of(told['laterality'])}" if by_side and told[key] else told[key]
        if place:
            _refuse_two(path, key, by_key.setdefault(place, told), told)
    left = [column for column in columns if column not in names.values() and is_patient_column(column)]
    unused = left[0] if left and "patient_id" not in names else ""
    return _Table(path, key, by_key, tuple(name for name in names if name not in _KNOWN), unused, by_side)


def _refuse_two(path: Path, key: str, first: Mapping[str, str], told: Mapping[str, str]) -> None:
    """Refuse two lines about the same images that give them two labels, or two exams: only one would be used."""
    if first["label"] != told["label"]:
        raise DataError(f"the label table {path} gives two labels to one {key}: give each {key} one label.")
    if first.get("exam_id") != told.get("exam_id"):
        raise DataError(
            f"the label table {path} gives two exams to one {key}: name the images of each exam by file or by "
            "StudyInstanceUID, or leave out the column exam_id."
        )


def _target(column: str) -> str | None:
    """Return the manifest's name of a column that has it, in any case; None for another column."""
    plain = column.strip().casefold()
    return _ALIASES.get(plain) or next((name for name in _KNOWN if name.casefold() == plain), None)


def _proposal(
    columns: Sequence[str], lines: Sequence[Mapping[str, str]], names: Mapping[str, str], found: Found
) -> str:
    """Return options that name the columns, guessed from their content."""
    left = [column for column in columns if column not in names.values()]
    parts = {part.casefold() for image in found.images for part in (image.name, _stem(image))}
    guessed: dict[str, str] = {}
    for column in left:
        files = [line[column].replace("\\", "/").rpartition("/")[2].casefold() in parts for line in lines]
        if "file" not in names and "file" not in guessed and 2 * sum(files) > len(files):
            guessed["file"] = column
        elif "patient_id" not in names and is_patient_column(column):
            guessed["patient_id"] = column
    left = [column for column in left if column not in guessed.values()]
    if "label" not in names and left:
        guessed["label"] = min(left, key=lambda column: len({line[column] for line in lines}))
    return " ".join(f"--column {shlex.quote(f'{name}={column}')}" for name, column in guessed.items()) or (
        "--column label=COLUMN --column file=COLUMN"
    )


def _join(
    table: _Table,
    paths: Mapping[Path, str],
    tags: Mapping[Path, DicomTags | None],
    told: Mapping[Path, Mapping[str, str]],
) -> dict[Path, str]:
    """Return the table's key of each image that it lists.

    Args:
        table: The table.
        paths: Image to its path below the folder.
        tags: Image to its DICOM tags.
        told: Image to its patient, exam, view and side, as far as they are known without the table.
    """
    if table.key == "file":
        return _join_files(table, paths)
    keys = {image: one["patient"] for image, one in told.items()}
    if table.key != "patient_id":
        keys = {image: getattr(one, _TAGS[table.key]) if one else "" for image, one in tags.items()}
    keys = {image: table.key_of(key, told[image]["laterality"]) for image, key in keys.items()}
    return {image: keys[image] for image in paths if keys[image] in table.lines}


def _join_files(table: _Table, paths: Mapping[Path, str]) -> dict[Path, str]:
    places: dict[str, set[Path]] = defaultdict(set)
    for image, path in paths.items():
        for ending in _endings(path):
            places[ending].add(image)
            places[ending.removesuffix(ending_of(image))].add(image)
    whole = {path.casefold(): image for image, path in paths.items()}
    joined: dict[Path, str] = {}
    doubtful = []
    for key, line in table.lines.items():
        written = key.replace("\\", "/")
        images = next((places[one] for one in _endings(written) if one in places), set())
        images = {whole[written.casefold()]} if written.casefold() in whole else images
        if len(images) > 1:
            doubtful.append(key)
        for image in images:
            if image in joined and table.lines[joined[image]]["label"] != line["label"]:
                raise DataError(f"the label table {table.path} gives two labels to one file: give each file one label.")
            joined[image] = key
    if doubtful:
        raise DataError(
            f"{named(doubtful)} in the label table {table.path} fit several images: write their paths below "
            "the folder, for example P001/1.png."
        )
    return {image: joined[image] for image in paths if image in joined}


def _stem(image: Path) -> str:
    return image.name[: len(image.name) - len(ending_of(image))]


def _endings(path: str) -> list[str]:
    """Return a path and what is left without its first folders, down to the name."""
    parts = path.casefold().split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _told(
    table: _Table, paths: Mapping[Path, str], tags: Mapping[Path, DicomTags | None], pattern: str
) -> dict[Path, dict[str, str]]:
    """Return what is known of each image without the table: by the pattern, else by its DICOM header.

    The patient is also a folder that the table lists.

    Args:
        table: The table.
        paths: Image to its path below the folder.
        tags: Image to its DICOM tags.
        pattern: Where the patient is in the path.
    """
    asked, found = parse_pattern(pattern), {}
    fields = asked.read(list(paths.values())) if asked else [{} for _ in paths]
    listed = {line["patient_id"] for line in table.lines.values()} if table.key == "patient_id" else set()
    for (image, path), one in zip(paths.items(), fields, strict=True):
        header = tags[image]
        nearest = next((part for part in reversed(path.split("/")[:-1]) if part in listed), "")
        patient = one.get("patient") or (header.patient_id if header else "") or nearest
        side = side_of(one.get("laterality", "")) or (header.laterality if header else "")
        found[image] = {**one, "patient": patient, "laterality": side}
    return found


def _row(image: Path, table: _Table, line: Mapping[str, str], told: Mapping[str, str]) -> Row:
    views = {"view": told.get("view", ""), "laterality": side_of(line.get("laterality", "")) or told["laterality"]}
    more = {name: value for name, value in views.items() if value} | {name: line.get(name, "") for name in table.more}
    split, patient = split_of(line.get("split", "")), line.get("patient_id") or told["patient"]
    exam = line.get("exam_id") or told.get("exam", "")
    return Row(image, line["label"], patient, split, line.get("group", ""), more, exam)
