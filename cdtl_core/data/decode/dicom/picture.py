"""Turns one frame of a DICOM file into a picture as a radiologist's screen shows it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cdtl_core.data.decode.dicom.frame import Places, read_frame
from cdtl_core.data.decode.dicom.gray import by_value, frame_group, read_look, render_gray
from cdtl_core.data.decode.dicom.header import Header, integer, numbers, read_header, text
from cdtl_core.data.decode.dicom.table import read_palette
from cdtl_core.data.decode.formats import drop_equal_channels, is_dicom, silenced
from cdtl_core.data.decode.picture import DicomTags, Picture
from cdtl_core.data.fault import UnreadableError, guarded
from cdtl_core.data.frame import Frame, choose_frame

__all__ = ["frame_picture", "num_frames", "read_dicom", "read_tags", "tags_of"]

_VIEWS = {  # codes of ViewCodeSequence, SNOMED CT and before; tomosynthesis has no ViewPosition
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML", "399352003": "LM", "R-10228": "LM",
}  # fmt: skip


def read_dicom(path: Path, frame: Frame = "middle") -> Picture:
    """Decode one frame of a DICOM file in this process.

    A codec may abort the process on damaged data; `cdtl_core.data.decode.reader.read_apart` survives that.

    Raises:
        DataError: The file is missing, holds no image, is damaged, too large, or stored in an unknown way.
    """
    with guarded(path, "DICOM"), silenced(), open(path, "rb") as file:
        header = read_header(file)
        return frame_picture(header, choose_frame(frame, num_frames(header)))


def num_frames(header: Header) -> int:
    """Return the number of frames of a file."""
    return max(1, integer(header.dataset, "NumberOfFrames", 1))


def frame_picture(header: Header, index: int, places: Places = ()) -> Picture:
    """Decode one frame.

    Args:
        header: The file.
        index: Index of the frame, from 0.
        places: What `frame_places` found, if several frames are read.

    Raises:
        UnreadableError: It is damaged, too large, or stored in an unknown way.
    """
    stored, photometric = read_frame(header, index, places)
    bits = integer(header.dataset, "BitsStored", stored.dtype.itemsize * 8)
    return Picture(_render(header, stored, photometric, index, bits), bits, "DICOM", tags_of(header))


def _render(header: Header, stored: npt.NDArray[Any], photometric: str, index: int, bits: int) -> npt.NDArray[np.uint8]:
    if stored.ndim == 3 and photometric == "RGB":
        top = 2.0**bits - 1
        if bits == 8 and stored.dtype == np.uint8:
            return drop_equal_channels(stored)
        return drop_equal_channels(
            by_value(stored, lambda values: np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8))
        )
    if stored.ndim == 2 and photometric in {"MONOCHROME1", "MONOCHROME2"}:
        return render_gray(stored, read_look(header.dataset, index, is_float=stored.dtype.kind == "f"))
    if stored.ndim == 2 and photometric == "PALETTE COLOR":
        palette = read_palette(header.dataset)
        return drop_equal_channels(
            by_value(stored, lambda values: np.rint(palette.shares(values.astype(np.float64)) * 255).astype(np.uint8))
        )
    raise UnreadableError("has a photometric interpretation that cannot be shown", "export it as gray or RGB")


def tags_of(header: Header) -> DicomTags:
    """Return the fields that intake needs."""
    dataset = header.dataset
    return DicomTags(
        modality=text(dataset, "Modality"),
        photometric=text(dataset, "PhotometricInterpretation"),
        burned_in={"YES": True, "NO": False}.get(text(dataset, "BurnedInAnnotation").upper()),
        patient_id=text(dataset, "PatientID"),
        accession=text(dataset, "AccessionNumber"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        frames=num_frames(header),
        study_uid=text(dataset, "StudyInstanceUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        view=text(dataset, "ViewPosition") or _coded_view(dataset),
        laterality=_laterality(dataset),
        is_slice=len(numbers(dataset, "ImagePositionPatient")) == 3,
    )


def _coded_view(dataset: Dataset) -> str:
    items = dataset.get("ViewCodeSequence")
    return _VIEWS.get(text(items[0], "CodeValue"), "") if items else ""


def _laterality(dataset: Dataset) -> str:
    anatomy = frame_group(dataset, 0, "FrameAnatomySequence")
    found = text(dataset, "ImageLaterality") or text(dataset, "Laterality") or text(anatomy, "FrameLaterality")
    return found.upper() if found.upper() in {"L", "R", "B"} else ""


def read_tags(path: Path) -> DicomTags | None:
    """Read the tags of a DICOM file without decoding its image; None for a damaged file or another format."""
    try:
        with silenced(), open(path, "rb") as file:
            if not is_dicom(file.read(132)):
                return None
            file.seek(0)
            return tags_of(read_header(file))
    except Exception:  # an unreadable header gives no tags; reading the image reports why
        return None
