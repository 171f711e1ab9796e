"""Synthetic studies with identifiers, as a PACS holds them."""

from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

ROOT = "1.2.826.0.1.3680043.9.7777"


class Known(NamedTuple):
    """What a study is known by."""

    uid: str
    accession: str
    patient: str
    label: str


def known(number: int) -> Known:
    label = ("benign", "malignant")[number % 2]
    return Known(f"{ROOT}.{number + 1}", f"ACC{number:06}", f"MRN-{number // 2:05}", label)


def image(study: int, series: int, number: int, *, size: int = 96, modality: str = "US") -> Dataset:
    """Return one image; the same arguments give the same bytes."""
    rng = np.random.default_rng([study, series, number])
    one, found = Dataset(), known(study)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    one.SOPClassUID = {"US": uid.UltrasoundImageStorage, "CT": uid.CTImageStorage}[modality]
    one.SOPInstanceUID = f"{found.uid}.{series + 1}.{number + 1}"
    one.StudyInstanceUID, one.SeriesInstanceUID = found.uid, f"{found.uid}.{series + 1}"
    one.PatientID, one.PatientName, one.PatientBirthDate = found.patient, f"ROE^JANE {study}", "19610203"
    one.AccessionNumber, one.StudyDate, one.StudyTime = found.accession, f"2024{study % 12 + 1:02}15", "101112"
    one.StudyDescription, one.SeriesDescription, one.Modality = "BREAST EXAM", f"view {series}", modality
    one.Manufacturer, one.ManufacturerModelName = "GE MEDICAL SYSTEMS", "LOGIQ 7"
    one.InstitutionName, one.ReferringPhysicianName = "General Hospital", "DOE^JOHN"
    one.StudyID, one.SeriesNumber, one.InstanceNumber = str(study), series + 1, number + 1
    one.Laterality = "L" if series == 0 else "R"
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.Rows = one.Columns = size
    bits = 16 if modality == "CT" else 8
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = bits, bits, bits - 1, 0
    one.PixelSpacing = [0.3, 0.3]
    if modality == "CT":
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 3.0 * number], [1, 0, 0, 0, 1, 0]
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
    shape = np.add.outer(np.arange(size), np.arange(size)) % 251
    pixels = (shape + rng.integers(0, 5, (size, size))).astype(f"<u{bits // 8}")
    one.add_new("PixelData", "OW" if bits == 16 else "OB", pixels.tobytes())
    return one


def study(number: int, *, series: int = 2, images: int = 2, size: int = 96) -> Iterator[Dataset]:
    """Yield the images of a study: ultrasound, two images in each series."""
    for one in range(series):
        for place in range(images):
            yield image(number, one, place, size=size)


def encoded(one: Dataset) -> bytes:
    """Return a data set as a file."""
    target = BytesIO()
    one.save_as(target, enforce_file_format=True)
    return target.getvalue()
