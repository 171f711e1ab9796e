"""Volumes in DICOM: a folder with a file for each slice, or one file with many frames."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from cdtl_core.data.decode.dicom.frame import Places, check_frames, frame_places, read_frame
from cdtl_core.data.decode.dicom.gray import frame_group, read_look
from cdtl_core.data.decode.dicom.header import Header, integer, numbers, read_header, text
from cdtl_core.data.decode.dicom.picture import frame_picture, num_frames, tags_of
from cdtl_core.data.decode.formats import is_dicom, series_files
from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.plan import Plan
from cdtl_core.data.decode.volume.geometry import stack_slices
from cdtl_core.data.decode.volume.stack import Stored, check_pixel, volume_pictures
from cdtl_core.data.fault import UnreadableError
from cdtl_core.data.frame import Slices

__all__ = ["file_pictures", "series_pictures", "survey_file", "survey_series"]

T = TypeVar("T")
_MOST_FRAMES = 1 << 16
_ONE_BY_ONE = "list its files one by one in the manifest, with one exam_id"


@dataclass(frozen=True)
class _Slice:
    """What a header says about one slice; `position` and `orientation` are empty if it does not say them."""

    series: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_mm: tuple[float, ...]
    shape: tuple[int, int]

    @property
    def is_placed(self) -> bool:
        return (len(self.position), len(self.orientation), len(self.pixel_mm)) == (3, 6, 2)


def survey_series(folder: Path, slices: Slices) -> Plan:
    """Read the headers of a folder of DICOM files and return its slices in order.

    Raises:
        UnreadableError: It is not one series of slices of one size and orientation, each at a place of its own.
    """
    names, others = _dicom_names(folder)
    found = [_at(name, partial(_slice_of, folder / name)) for name in names]
    count = Counter(one.series for one in found)
    if len(count) > 1:
        parts = ", ".join(str(number) for _, number in count.most_common())
        raise UnreadableError(
            f"holds slices of {len(count)} series ({parts} files)", "put each series into a folder of its own"
        )
    plan = _volume("series", found, slices)
    return Plan(**{**plan.as_dict(), "items": [names[at] for at in plan.items], "left_out": others})


def series_pictures(folder: Path, plan: Plan, start: int) -> Iterator[Picture]:
    """Yield the chosen slices of a series, each with its neighbours.

    Raises:
        UnreadableError: A slice cannot be read; the sentence names its file.
    """

    def source(index: int) -> Stored:
        name = plan.items[index]
        return _at(name, partial(_read_slice, folder / name))

    yield from volume_pictures(plan, source, start, "DICOM")


def survey_file(path: Path, slices: Slices) -> Plan:
    """Read the header of a DICOM file and return its frames: slices in order where it says their places.

    Raises:
        UnreadableError: Its slices have two orientations, or two have one place, it is a slide, or it is truncated.
    """
    with open(path, "rb") as file:
        header = read_header(file)
        if text(header.dataset, "SOPClassUID") == VLWholeSlideMicroscopyImageStorage:
            raise UnreadableError("is a whole slide in DICOM", "convert it to a pyramidal TIFF or an .svs file")
        count = num_frames(header)
        if count == 1:
            return Plan("image")
        if count > _MOST_FRAMES:
            raise UnreadableError(f"claims {count} frames, where {_MOST_FRAMES} is the most")
        check_frames(header, count)
        groups = header.dataset.get("PerFrameFunctionalGroupsSequence") or ()
        has_places = _is_gray(header) and len(groups) == count
        found = [_frame_of(header, index) for index in range(count)] if has_places else []
    if found and all(one.is_placed for one in found):
        return _volume("volume", found, slices)
    return Plan("frames", count, slices.choose(count), tuple(range(count)))


def file_pictures(path: Path, plan: Plan, start: int) -> Iterator[Picture]:
    """Yield the chosen frames of a DICOM file; those of a volume with their neighbours.

    Raises:
        UnreadableError: A frame cannot be read; the sentence says which.
    """
    with open(path, "rb") as file:
        header = read_header(file)
        places = frame_places(header)
        if plan.kind == "volume":

            def source(index: int) -> Stored:
                frame = plan.items[index]
                return _at(f"number {frame}", partial(_stored, header, frame, places), "frame")

            yield from volume_pictures(plan, source, start, "DICOM")
            return
        for index in plan.rest(start):
            yield _at(f"number {index}", partial(frame_picture, header, index, places), "frame")


def _dicom_names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of a folder's DICOM files and of all others but hidden ones."""
    names, others = list[str](), list[str]()
    for path in series_files(folder):
        with open(path, "rb") as file:
            (names if is_dicom(file.read(132)) else others).append(path.name)
    if names:
        return names, others
    if any(child.is_dir() for child in folder.iterdir()):
        raise UnreadableError("holds folders and no DICOM files", "name the folder of one series")
    raise UnreadableError(
        "holds no DICOM files", "name the folder of a DICOM series; list images of other formats one by one"
    )


def _at(name: str, read: Callable[[], T], what: str = "slice") -> T:
    """Read a slice; a fault names it."""
    try:
        return read()
    except UnreadableError as fault:
        raise UnreadableError(f"has a {what}, {name}, that {fault.what}", fault.do) from None
    except OSError as error:
        reason = error.strerror or "it ends early"
        raise UnreadableError(f"has a {what}, {name}, that cannot be read ({reason})") from None


def _slice_of(path: Path) -> _Slice:
    with open(path, "rb") as file:
        header = read_header(file)
    if num_frames(header) > 1:
        raise UnreadableError("holds several frames", "list that file itself in the manifest, not its folder")
    if not _is_gray(header):
        raise UnreadableError("is in colour, so it is no slice of a volume", _ONE_BY_ONE)
    data = header.dataset
    return _Slice(
        text(data, "SeriesInstanceUID"),
        tuple(numbers(data, "ImagePositionPatient")),
        tuple(numbers(data, "ImageOrientationPatient")),
        tuple(numbers(data, "PixelSpacing")),
        (integer(data, "Rows"), integer(data, "Columns")),
    )


def _frame_of(header: Header, index: int) -> _Slice:
    data = header.dataset

    def told(group: str, keyword: str) -> tuple[float, ...]:
        holder = frame_group(data, index, group)
        return () if holder is data else tuple(numbers(holder, keyword))  # of the file, it is not of the frame

    return _Slice(
        "",
        told("PlanePositionSequence", "ImagePositionPatient"),
        told("PlaneOrientationSequence", "ImageOrientationPatient"),
        told("PixelMeasuresSequence", "PixelSpacing"),
        (integer(data, "Rows"), integer(data, "Columns")),
    )


def _is_gray(header: Header) -> bool:
    return text(header.dataset, "PhotometricInterpretation") in {"MONOCHROME1", "MONOCHROME2"}


def _volume(kind: Literal["series", "volume"], found: Sequence[_Slice], slices: Slices) -> Plan:
    lost = sum(not one.is_placed for one in found)
    if lost:
        raise UnreadableError(
            f"has {lost} of {len(found)} slices without position, orientation or pixel spacing in the header",
            f"export it again with them, or {_ONE_BY_ONE}",
        )
    forms = {(one.shape, tuple(np.round(one.pixel_mm, 3).tolist())) for one in found}
    if len(forms) > 1:
        told = ", ".join(f"{rows} x {columns} of {mm[0]:g} mm" for (rows, columns), mm in sorted(forms)[:3])
        raise UnreadableError(f"holds slices of different sizes ({told})", "put each series into a folder of its own")
    stack = stack_slices(np.array([one.orientation for one in found]), np.array([one.position for one in found]))
    return Plan(
        kind,
        len(found),
        slices.choose(len(found)),
        stack.order,
        check_pixel(*found[0].pixel_mm),
        stack.spacing_mm,
        stack.missing,
        stack.plane,
    )


def _read_slice(path: Path) -> Stored:
    with open(path, "rb") as file:
        return _stored(read_header(file), 0)


def _stored(header: Header, index: int, places: Places = ()) -> Stored:
    values, _ = read_frame(header, index, places)
    bits = integer(header.dataset, "BitsStored", values.dtype.itemsize * 8)
    look = read_look(header.dataset, index, is_float=values.dtype.kind == "f")
    tags = tags_of(header)
    return Stored(values, look, bits, tags.modality == "CT", tags)
