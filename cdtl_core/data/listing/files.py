"""The image files below a folder: known by their ending, or as DICOM by their content."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.data.decode.formats import is_dicom
from cdtl_core.data.decode.picture import DicomTags
from cdtl_core.data.source import Row
from cdtl_core.errors import DataError

__all__ = ["Found", "Listing", "ending_of", "find_images", "named", "read_headers"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pbm", ".pgm", ".ppm", ".pnm", ".dcm"}
_SUFFIXES |= {".nii", ".svs", ".ndpi", ".scn", ".bif"}
_PACKED = ".nii.gz"
_TABLES = {".csv", ".tsv", ".xls", ".xlsx", ".ods"}
"""Endings of tables, one of which may hold the labels: the notes do not name them."""
_NO_IMAGES = {".txt", ".md", ".xml", ".json", ".toml", ".pdf", ".doc", ".docx"}
_NO_IMAGES |= {".html", ".db", ".ini", ".log", ".py", ".zip", ""}
"""Endings of files that are no images anyway."""
_HEAD = 132  # bytes that tell DICOM
_EXAMPLES = 3


@dataclass(frozen=True)
class Found:
    """Images below a folder, and what was left out.

    Attributes:
        folder: The folder.
        images: The images.
        others: How many files of kinds that may be images, by ending.
        papers: Files that are no images anyway, such as ``README.txt``.
    """

    folder: Path
    images: tuple[Path, ...]
    others: Mapping[str, int]
    papers: tuple[Path, ...] = ()

    def path_of(self, image: Path) -> str:
        """Return the path of an image below the folder, with slashes."""
        return image.relative_to(self.folder).as_posix()


@dataclass(frozen=True)
class Listing:
    """Rows of a source.

    Attributes:
        rows: The images with label and patient.
        notes: What was left out or guessed, one sentence for each reason.
        layout: How the source was read, for example ``images/<label>/<patient>/<image>``.
        patient_column: A column of the label table that seems to hold the patient and was not used; empty: none.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    layout: str
    patient_column: str = ""


def find_images(folder: Path) -> Found:
    """Return the image files below a folder, in the order of their paths.

    A file with another ending, or without one, is an image if its content is DICOM.

    Raises:
        DataError: The folder does not exist, or holds no image.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}: give a folder of images.")
    images, papers, others = list[Path](), list[Path](), Counter[str]()
    for path in _files(folder):
        if _is_image(path):
            images.append(path)
        elif path.suffix.lower() in _NO_IMAGES:
            papers.append(path)
        elif path.suffix.lower() not in _TABLES:
            others[path.suffix.lower()] += 1
    if not images:
        held = f" but {', '.join(f'{count} {kind}' for kind, count in others.most_common(_EXAMPLES))}" if others else ""
        raise DataError(f"{folder} holds no image{held}: give a folder of PNG, JPEG, TIFF, BMP, DICOM or NIfTI files.")
    return Found(folder, tuple(sorted(images)), others, tuple(sorted(papers)))


def read_headers(found: Found) -> tuple[dict[Path, DicomTags | None], list[str]]:
    """Return the DICOM tags of each image, None for other formats, and notes about what is left out.

    Raises:
        DataError: Nothing is left.
    """
    dicom = [image for image in found.images if is_dicom(_head(image))]
    tags: dict[Path, DicomTags | None] = dict.fromkeys(found.images)
    if dicom:
        from cdtl_core.data.decode.dicom import read_tags  # pydicom takes a while to load

        tags |= {image: read_tags(image) for image in dicom}
    without = [image for image in dicom if tags[image] is None]
    notes = []
    if without:
        many = f"{len(without)} DICOM files hold" if len(without) > 1 else "1 DICOM file holds"
        notes.append(f"{many} no image that can be read, left out: {named(map(found.path_of, without))}.")
    if len(without) == len(tags):
        raise DataError(f"{found.folder}: {notes[0]} Export the images themselves.")
    if found.others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.others.most_common(_EXAMPLES))  # type: ignore[attr-defined]
        notes.append(f"files of other kinds were left out: {kinds}.")
    if found.papers:
        notes.append(f"no images by their endings, left out: {named([*map(found.path_of, found.papers)])}.")
    return {image: one for image, one in tags.items() if image not in set(without)}, notes


def named(names: Iterator[str] | Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _EXAMPLES} more" if len(every) > _EXAMPLES else ""
    return ", ".join(every[:_EXAMPLES]) + more


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; its own subfolders may be symbolic links. Hidden ones are skipped."""
    for child in folder.iterdir():
        if child.name.startswith("."):
            continue
        if not child.is_dir():
            yield child
            continue
        for root, folders, names in os.walk(child):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (Path(root) / name for name in names if not name.startswith("."))


def ending_of(image: Path) -> str:
    """Return the ending of an image's name, in lower case; a packed volume has two parts."""
    return _PACKED if image.name.lower().endswith(_PACKED) else image.suffix.lower()


def _is_image(path: Path) -> bool:
    if ending_of(path) in {*_SUFFIXES, _PACKED}:
        return True
    if path.name.upper() == "DICOMDIR":  # the index of an export, itself DICOM
        return False
    head = _head(path)
    return head[128:] == b"DICM" or (not path.suffix and is_dicom(head))


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
