"""Turns one frame of a DICOM file into a picture as a radiologist's screen shows it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core.data.decode.dicom.frame import read_frame
from cdtl_core.data.decode.dicom.gray import by_value, read_look, render_gray
from cdtl_core.data.decode.dicom.header import Header, integer, read_header, text
from cdtl_core.data.decode.dicom.table import read_palette
from cdtl_core.data.decode.formats import drop_equal_channels, is_dicom, silenced
from cdtl_core.data.decode.picture import DicomTags, Picture
from cdtl_core.data.fault import UnreadableError, refuse
from cdtl_core.data.frame import Frame, choose_frame

__all__ = ["read_dicom", "read_tags"]


def read_dicom(path: Path, frame: Frame = "middle") -> Picture:
    """Decode one frame of a DICOM file in this process.

    A codec may abort the process on damaged data; `cdtl_core.data.decode.reader.read_apart` survives that.

    Raises:
        DataError: The file is missing, holds no image, is damaged, too large, or stored in an unknown way.
    """
    try:
        with silenced(), open(path, "rb") as file:
            return _picture(read_header(file), frame)
    except UnreadableError as fault:
        raise refuse(path, fault) from None
    except OSError as error:
        raise refuse(path, UnreadableError(f"cannot be read ({error.strerror or 'it ends early'})")) from None
    except MemoryError:
        raise refuse(path, UnreadableError("is damaged, or needs more memory than there is")) from None
    except Exception as error:  # pydicom has no error family of its own, and its texts quote the header
        raise refuse(path, UnreadableError(f"is damaged or no valid DICOM ({type(error).__name__})")) from None


def _picture(header: Header, frame: Frame) -> Picture:
    dataset = header.dataset
    frames = max(1, integer(dataset, "NumberOfFrames", 1))
    index = choose_frame(frame, frames)
    stored, photometric = read_frame(header, index)
    bits = integer(dataset, "BitsStored", stored.dtype.itemsize * 8)
    return Picture(_render(header, stored, photometric, index, bits), bits, "DICOM", _tags(header, frames))


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


def _tags(header: Header, frames: int) -> DicomTags:
    dataset = header.dataset
    return DicomTags(
        modality=text(dataset, "Modality"),
        photometric=text(dataset, "PhotometricInterpretation"),
        burned_in={"YES": True, "NO": False}.get(text(dataset, "BurnedInAnnotation").upper()),
        patient_id=text(dataset, "PatientID"),
        accession=text(dataset, "AccessionNumber"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        frames=frames,
    )


def read_tags(path: Path) -> DicomTags | None:
    """Read the tags of a DICOM file without decoding its image; None for a damaged file or another format."""
    try:
        with silenced(), open(path, "rb") as file:
            if not is_dicom(file.read(132)):
                return None
            file.seek(0)
            header = read_header(file)
            return _tags(header, max(1, integer(header.dataset, "NumberOfFrames", 1)))
    except Exception:  # an unreadable header gives no tags; reading the image reports why
        return None
