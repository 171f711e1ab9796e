"""Exams of a folder's images: DICOM series as one row each, exam_id by study, series or path, views and sides."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cdtl_core.data.decode.picture import DicomTags
from cdtl_core.data.listing.files import Found, named
from cdtl_core.data.source import Row
from cdtl_core.errors import DataError

__all__ = ["ExamsBy", "arrange_slices", "name_exams", "side_of"]

ExamsBy = Literal["study", "series"]
_Tags = Mapping[Path, DicomTags | None]
_SIDES = {"l": "L", "left": "L", "links": "L", "izquierda": "L", "esquerda": "L", "gauche": "L", "sinistra": "L"}
_SIDES |= {"r": "R", "right": "R", "rechts": "R", "derecha": "R", "direita": "R", "droite": "R", "destra": "R"}
_SIDES |= {"b": "B", "both": "B"}


def side_of(text: str) -> str:
    """Return ``L``, ``R`` or ``B`` for a side in one of several languages; empty for another word."""
    return _SIDES.get(text.strip().casefold(), "")


def arrange_slices(found: Found, tags: _Tags, series: bool) -> tuple[dict[Path, DicomTags | None], list[str]]:
    """Return the images, with a folder of DICOM slices in place of its files if `series` asks for it, and a note.

    Args:
        found: The images.
        tags: Image to its DICOM tags.
        series: Whether a series is one row.

    Raises:
        DataError: A folder holds slices of several series.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for image, header in tags.items():
        if header and header.is_slice and header.frames == 1:
            folders[image.parent].append(image)
    folders = {folder: images for folder, images in folders.items() if len(images) > 1}
    if not series or not folders:
        count = sum(map(len, folders.values()))
        note = f"{count} slices in {len(folders)} folders are listed one by one: with --series a series is one row."
        return dict(tags), [note] if folders else []
    mixed = [folder for folder, images in folders.items() if len({_series(tags[image]) for image in images}) > 1]
    if mixed:
        where = named([found.path_of(folder) for folder in mixed])
        raise DataError(
            f"slices of several DICOM series are in one folder ({where}): put each series into a folder of its own, or "
            "give the command without --series."
        )
    taken = {image for images in folders.values() for image in images}
    left = {image: header for image, header in tags.items() if image not in taken}
    merged = left | {folder: tags[images[0]] for folder, images in folders.items()}
    note = f"{len(taken)} slices are listed as {len(folders)} series, a row for each folder."
    return {image: merged[image] for image in sorted(merged)}, [note]


def name_exams(
    rows: Sequence[Row], tags: _Tags, by: ExamsBy = "study", *, label_by_side: bool = False
) -> tuple[tuple[Row, ...], list[str]]:
    """Return the rows with their exam and, of DICOM files, the columns view and laterality; and notes.

    An exam that the pattern or the table names is kept. Others are those of the DICOM header. Where images of one exam
    have different labels and each side has one, left and right become exams of their own.

    Args:
        rows: The rows.
        tags: Image to its DICOM tags.
        by: Whether a study or a series is an exam.
        label_by_side: Whether the labels are told by side, so that each side is an exam.
    """
    found = [_with_view(row, tags.get(row.file)) for row in rows]
    own = [bool(row.exam) for row in found]
    found = [row if row.exam else replace(row, exam=_exam_of(tags.get(row.file), by)) for row in found]
    doubtful = _doubtful(found)
    by_side = [_by_side(row) for row in found]
    notes = []
    if label_by_side or (doubtful and not _doubtful(by_side)):
        found = by_side
        notes = ["left and right are exams of their own (the side is behind the id), because their labels are."]
    elif doubtful:
        kept = [row.exam not in doubtful or told for row, told in zip(found, own, strict=True)]
        found = [row if keep else replace(row, exam="") for row, keep in zip(found, kept, strict=True)]
        if not all(kept):
            notes = [
                f"{len(doubtful)} DICOM {by if by == 'series' else 'studies'} have images with different labels: these "
                "images have no exam_id, so each is an exam of its own."
            ]
    return tuple(found), notes


def _series(header: DicomTags | None) -> str:
    return header.series_uid if header else ""


def _exam_of(header: DicomTags | None, by: ExamsBy) -> str:
    if header is None:
        return ""
    return header.series_uid if by == "series" else header.study_uid


def _with_view(row: Row, header: DicomTags | None) -> Row:
    told = {"view": header.view, "laterality": header.laterality} if header else {}
    told = {name: value for name, value in told.items() if value and not row.more.get(name)}
    return replace(row, more={**row.more, **told}) if told else row


def _by_side(row: Row) -> Row:
    side = side_of(row.more.get("laterality", ""))
    return replace(row, exam=f"{row.exam}-{side}") if row.exam and side in {"L", "R"} else row


def _doubtful(rows: Sequence[Row]) -> set[str]:
    """Return the exams whose images have different labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.exam and row.label:
            labels[row.exam].add(row.label)
    return {exam for exam, found in labels.items() if len(found) > 1}
