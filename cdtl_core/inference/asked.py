"""What a prediction is asked for: images, or exams of several, in files, folders, patterns and manifests."""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config import BoxConfig, Unit
from cdtl_core.data.box import Square, square_of
from cdtl_core.data.decode.formats import HEAD_BYTES, is_dicom, series_files
from cdtl_core.data.decode.picture import DicomTags
from cdtl_core.data.listing.files import find_images
from cdtl_core.data.source import check_files, read_table
from cdtl_core.errors import DataError

__all__ = ["Asked", "asked_for", "grouped", "tags_of", "with_boxes"]

_TABLES = {".csv", ".tsv"}
_BOX = "--box"
_VOLUMES = (".nii", ".nii.gz", ".svs", ".ndpi", ".scn", ".bif")
"""Endings of volumes and slides: in a folder each is an exam."""


@dataclass(frozen=True)
class Asked:
    """What gets one score.

    Attributes:
        name: An image's file, an exam's folder or file, or its id in a manifest.
        files: Its files; a folder of a DICOM series stands for its slices.
        lines: Their lines of the manifest; empty: they are from no manifest.
        squares: The part of each file that is used; None: the whole image. Empty: whole images.
    """

    name: str
    files: tuple[Path, ...]
    lines: tuple[Mapping[str, str], ...] = ()
    squares: tuple[Square | None, ...] = ()


def asked_for(given: Sequence[Path], unit: Unit) -> list[Asked]:
    """Return the units in what a person gives, in this order.

    For a model of images each image file is a unit. For a model of exams or patients a file is a unit, each subfolder
    of a folder is one with all images below it, and a folder without subfolders is one, unless it holds volumes or
    slides: then each of its files is one.

    Args:
        given: Files, folders, patterns such as ``*.png``, and manifests (``.csv``).
        unit: What has a score.

    Raises:
        DataError: A file or folder does not exist, a folder holds no image, a pattern matches no file, or a manifest
            lacks a column.
    """
    found: list[Asked] = []
    for one in given:
        if one.is_dir():
            found += _in_folder(one, unit)
        elif one.suffix.lower() in _TABLES and one.exists():
            found += _in_manifest(one, unit)
        elif not one.exists() and glob.has_magic(str(one)):
            found += asked_for(_matched(one, files_only=unit == "image"), unit)
        elif not one.exists():
            raise DataError(f"{one} does not exist: give an image, a folder of images or a pattern such as '*.png'.")
        else:
            found.append(Asked(str(one), (one,)))
    return found


def grouped(files: Sequence[Path], exams: Sequence[str], unit: Unit) -> list[Asked]:
    """Return files with the same name of an exam as one.

    Args:
        files: Files, or folders of a series.
        exams: The name of each one's exam.
        unit: What has a score.

    Raises:
        DataError: Images have a score each, or the numbers differ.
    """
    if unit == "image":
        raise DataError("the model scores images one by one: leave out the names of exams.")
    if len(exams) != len(files):
        raise DataError(f"{len(exams)} names of exams are given for {len(files)} images: give one for each image.")
    found: dict[str, list[Path]] = {}
    for file, exam in zip(files, exams, strict=True):
        found.setdefault(exam, []).append(file)
    return [Asked(exam, tuple(ones)) for exam, ones in found.items()]


def with_boxes(asked: Sequence[Asked], box: BoxConfig | None, boxes: Sequence[str], *, unit: Unit) -> list[Asked]:
    """Return the units with the squares of their lesions, for a model of lesions; the same units for another one.

    Args:
        asked: The units.
        box: How the model's lesions were cut out; None: it uses whole images.
        boxes: A box for each unit that is from no manifest; a manifest has them in the model's column.
        unit: What has a score.

    Raises:
        DataError: There are too few or too many boxes, or one is malformed.
        ConfigError: The manifest lacks the column.
    """
    without = [one for one in asked if not one.lines]
    if box is not None and without and unit != "image":
        raise DataError(
            f"the model uses lesions cut out by their boxes, and {without[0].name} has none: give a manifest with the "
            f"columns file, exam_id and {box.column}."
        )
    if len(boxes) != (len(without) if box else 0):
        wanted = f"give --box x,y,width,height for each of {len(without)} images" if box else "leave out --box"
        looked = "lesions cut out by their boxes" if box else "whole images"
        raise DataError(f"the model uses {looked}, but {len(boxes)} boxes are given: {wanted}.")
    if box is None:
        return list(asked)
    typed, given = box.model_copy(update={"column": _BOX, "scale": None}), iter(boxes)
    return [
        Asked(one.name, one.files, one.lines, tuple(map(square_of, one.lines, [box] * len(one.files), _names(one))))
        if one.lines
        else Asked(one.name, one.files, (), (square_of({_BOX: next(given)}, typed, one.files[0].name),))
        for one in asked
    ]


def _names(one: Asked) -> list[str]:
    return [file.name for file in one.files]


def _matched(pattern: Path, *, files_only: bool) -> list[Path]:
    names = sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - pathlib takes no absolute pattern
    matched = [path for path in map(Path, names) if path.is_file() or not files_only]
    if not matched:
        raise DataError(f"no file matches {pattern}: correct the pattern.")
    return matched


def _in_manifest(path: Path, unit: Unit) -> list[Asked]:
    """Return the units of a manifest: rows with the same ``exam_id`` or ``patient_id``, or each row."""
    columns, lines = read_table(path, "manifest", "correct the path")
    needed = ("file", "patient_id") if unit == "patient" else ("file",)
    if missing := [column for column in needed if column not in columns]:
        raise DataError(f"the manifest {path} lacks the column {', '.join(missing)}: add it to the header.")
    check_files(path, lines)
    if not lines:
        raise DataError(f"the manifest {path} lists no image: add a row for each.")
    units = _by_unit(path, lines, unit)
    return [Asked(name, tuple(path.parent / one["file"] for one in ones), tuple(ones)) for name, ones in units]


def _by_unit(path: Path, lines: list[dict[str, str]], unit: Unit) -> list[tuple[str, list[dict[str, str]]]]:
    """Return name and lines of each unit. Of images each line is one: a file may be listed once for each lesion.

    Raises:
        DataError: A line has no patient, or an exam has two patients or an image twice.
    """
    if unit == "image":
        return [(str(path.parent / line["file"]), [line]) for line in lines]
    key, units = {"exam": "exam_id", "patient": "patient_id"}[unit], dict[str, list[dict[str, str]]]()
    for line in lines:
        if unit == "patient" and not line[key]:
            raise DataError(f"the manifest {path} has no patient_id for {line['file']}: fill it in.")
        units.setdefault(line.get(key) or str(path.parent / line["file"]), []).append(line)
    for name, ones in units.items():
        _check_unit(path, f"{unit} {name}", ones)
    return list(units.items())


def _check_unit(path: Path, named: str, ones: list[dict[str, str]]) -> None:
    """Refuse an exam of two patients, and one that counts an image twice, as a run does."""
    if len({one.get("patient_id") for one in ones} - {"", None}) > 1:
        raise DataError(f"the manifest {path} has two patients under the {named}: give each exam its own exam_id.")
    if len({os.path.normpath(one["file"]) for one in ones}) < len(ones):
        raise DataError(f"the manifest {path} lists an image of the {named} twice: give each image one row.")


def _in_folder(folder: Path, unit: Unit) -> list[Asked]:
    images = find_images(folder).images
    if unit == "image":
        return [Asked(str(image), (image,)) for image in images]
    below: dict[Path, list[Path]] = {}  # an exam's folder, or its file
    for image in images:
        parts = image.relative_to(folder).parts
        below.setdefault(folder / parts[0], []).append(image)
    if any(child.is_dir() for child in below) or any(map(_holds_several, below)):
        return [Asked(str(child), _of_series(files)) for child, files in below.items()]
    return [Asked(str(folder), _of_series(images))]


def _holds_several(path: Path) -> bool:
    return path.name.lower().endswith(_VOLUMES)


def _of_series(images: Sequence[Path]) -> tuple[Path, ...]:
    """Return the images, with a folder in place of the DICOM slices in it; other images in it stand beside it."""
    parts: dict[Path, list[Path]] = {}
    for image in images:
        parts.setdefault(image.parent, []).append(image)
    found: list[Path] = []
    for folder, files in parts.items():
        slices = {file for file in files if _is_dicom(file)}
        tags = tags_of(min(slices)) if len(slices) > 1 else None
        is_series = tags is not None and tags.is_slice
        found += [folder, *(file for file in files if file not in slices)] if is_series else files
    return tuple(found)


def _is_dicom(file: Path) -> bool:
    with open(file, "rb") as opened:
        return is_dicom(opened.read(HEAD_BYTES))


def tags_of(path: Path) -> DicomTags | None:
    """Return what the header of a DICOM file says, or that of the first one in the folder of a series; else None."""
    file = next(filter(_is_dicom, series_files(path) if path.is_dir() else [path]), None)
    if file is None:
        return None
    from cdtl_core.data.decode.dicom import read_tags  # pydicom takes a while to load

    return read_tags(file)
