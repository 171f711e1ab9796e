"""The process started by `cdtl_core.data.decode.reader`: requests in, answers with pixels out, until stdin ends.

A request is a line of JSON. It names a path and asks for one image (``frame``), for what the file holds (``survey``),
or for all images of a plan from one on (``plan``, ``start``). An answer is a line of JSON, with the pixels of an image.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom

from cdtl_core.data.decode.dicom import read_dicom
from cdtl_core.data.decode.formats import HEAD_BYTES, is_dicom, is_nifti
from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.raster import count_pages, read_pages, read_raster
from cdtl_core.data.decode.slide.tiles import is_slide, slide_pictures, survey_slide
from cdtl_core.data.decode.volume.dicom import file_pictures, series_pictures, survey_file, survey_series
from cdtl_core.data.decode.volume.nifti import nifti_pictures, survey_nifti
from cdtl_core.data.fault import UnreadableError, guarded, refuse
from cdtl_core.data.frame import Frame
from cdtl_core.errors import DataError

__all__ = ["serve"]


_FORMS = {"frames": "DICOM", "volume": "DICOM", "series": "DICOM", "nifti": "NIfTI", "slide": "slide", "pages": "TIFF"}


def read_one(path: Path, frame: Frame) -> Picture:
    """Read one image of a DICOM or TIFF file.

    Raises:
        DataError: As `read_dicom` and `read_raster`.
    """
    with open(path, "rb") as file:
        read = read_dicom if is_dicom(file.read(132)) else read_raster
    return read(path, frame)


def survey(path: Path, asked: Survey) -> Plan:
    """Return which images a file holds and which are read: by its header, of a slide by its overview.

    Args:
        path: A DICOM, TIFF or NIfTI file, or a folder of DICOM files.
        asked: Which of its images are used.

    Raises:
        DataError: It is damaged, or its images do not belong together; the sentence says what to do.
    """
    if path.is_dir():
        with guarded(path, "DICOM"):
            return survey_series(path, asked.slices)
    with guarded(path, "image"), open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if is_dicom(head):
        with guarded(path, "DICOM"):
            return survey_file(path, asked.slices)
    if is_nifti(head):
        with guarded(path, "NIfTI"):
            return survey_nifti(path, asked.slices)
    with guarded(path, "slide"):
        if is_slide(path):
            return survey_slide(path, asked)
    count = count_pages(path)
    with guarded(path, "TIFF"):
        return Plan("pages", count, asked.slices.choose(count)) if count > 1 else Plan("image")


def pictures(path: Path, plan: Plan, start: int = 0) -> Iterator[Picture]:
    """Yield the images of a plan in order, with a bounded number of them in memory.

    Args:
        path: The file or folder.
        plan: What `survey` found.
        start: How many of the chosen images are passed over.

    Raises:
        DataError: An image cannot be read.
    """
    read: dict[str, Callable[[Path, Plan, int], Iterator[Picture]]] = {
        "frames": file_pictures,
        "volume": file_pictures,
        "series": series_pictures,
        "nifti": nifti_pictures,
        "slide": slide_pictures,
        "pages": lambda path, plan, start: read_pages(path, plan.rest(start)),
    }
    with guarded(path, _FORMS[plan.kind]):
        yield from read[plan.kind](path, plan, start)


_MEMORY_BYTES = 4 << 30


def serve() -> None:
    """Answer one request per line of stdin."""
    _limit()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # codecs may print
    warnings.simplefilter("ignore")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    for line in sys.stdin.buffer:
        for part in _answer(json.loads(line)):
            answers.write(part)
            answers.flush()


def _answer(request: Mapping[str, Any]) -> Iterator[bytes]:
    path = Path(request["path"])
    try:
        if "survey" in request:
            yield _line({"plan": survey(path, Survey.from_dict(request["survey"])).as_dict()})
        elif "plan" in request:
            for picture in pictures(path, Plan.from_dict(request["plan"]), request["start"]):
                yield from _sent(picture)
        else:
            yield from _sent(read_one(path, request["frame"]))
    except (DataError, OSError) as fault:
        error = fault if isinstance(fault, DataError) else refuse(path, UnreadableError("can no longer be opened"))
        yield _line({"error": str(error)})


def _sent(picture: Picture) -> Iterator[bytes]:
    yield _line(
        {
            "shape": picture.pixels.shape,
            "bits": picture.bits,
            "format": picture.format,
            "tags": asdict(picture.tags) if picture.tags else None,
            "neighbours": picture.neighbours,
        }
    )
    yield picture.pixels.tobytes()


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _limit() -> None:
    """Limit memory to 4 GB and disable core files, which would hold patients' images."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    serve()
