"""Images, DICOM files and tables as hospitals have them, for tests of what reads them."""

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


def png(path: Path, seed: int = 0) -> Path:
    """A small gray image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40), np.uint8)).save(path)
    return path


def dicom(
    path: Path,
    patient: str,
    accession: str = "",
    uid: str = "",
    *,
    modality: str = "US",
    image: bool = True,
    **told: object,
) -> str:
    """A DICOM file of 16 pixels, or a report without any; returns its SOPInstanceUID. `told` is further elements."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientID, dataset.AccessionNumber, dataset.Modality = patient, accession, modality
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for keyword, value in told.items():
        setattr(dataset, keyword, value)
    if image:
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 4, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.PixelData = bytes(range(16))
    dataset.save_as(path)
    return str(dataset.SOPInstanceUID)


def table(path: Path, header: str, *lines: str) -> Path:
    """A text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path
