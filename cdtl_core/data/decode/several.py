"""Files and folders that hold several images: which images these are, and each of them in turn. Runs in the reader."""

from collections.abc import Callable, Iterator
from pathlib import Path

from cdtl_core.data.decode.dicom import read_dicom
from cdtl_core.data.decode.formats import HEAD_BYTES, is_dicom, is_nifti
from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.raster import count_pages, read_pages, read_raster
from cdtl_core.data.decode.slide.tiles import is_slide, slide_pictures, survey_slide
from cdtl_core.data.decode.volume.dicom import file_pictures, series_pictures, survey_file, survey_series
from cdtl_core.data.decode.volume.nifti import nifti_pictures, survey_nifti
from cdtl_core.data.fault import guarded
from cdtl_core.data.frame import Frame

__all__ = ["pictures", "read_one", "survey"]

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
