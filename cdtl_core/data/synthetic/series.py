"""A synthetic volume as a folder of DICOM files, one for each slice."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cdtl_core.data.synthetic.phantom_physics import Pixels

__all__ = ["write_series"]

_LEVELS = 4  # stored values for each gray level: twelve bits are used, as scanners do


def write_series(folder: Path, volume: Pixels, *, name: str, spacing: float, thickness: float) -> None:
    """Write an axial MRI series; the names of its files say nothing about the order of the slices.

    Args:
        folder: It is created.
        volume: D H W, from the feet to the head.
        name: Identifies the series; the same name gives the same bytes.
        spacing: Distance of neighbouring pixels in millimetres.
        thickness: Distance of neighbouring slices in millimetres.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place, pixels in enumerate(volume):
        uid = generate_uid(entropy_srcs=[name, str(place)])
        dataset = _slice(pixels, name=name, place=place)
        dataset.SOPInstanceUID = uid
        dataset.PixelSpacing = [spacing, spacing]
        dataset.SliceThickness = dataset.SpacingBetweenSlices = thickness
        dataset.ImagePositionPatient = [
            -spacing * pixels.shape[1] / 2,
            -spacing * pixels.shape[0] / 2,
            place * thickness,
        ]
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(folder / f"{uid.rsplit('.', 1)[-1][-12:]}.dcm", enforce_file_format=True)


def _slice(pixels: Pixels, *, name: str, place: int) -> Dataset:
    """Return the header and pixels of a slice, without what depends on the geometry."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = MRImageStorage, "MR"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = (
        generate_uid(entropy_srcs=[name, part]) for part in ("study", "series", "frame")
    )
    dataset.PatientID, dataset.PatientName = name, "SYNTHETIC^PHANTOM"
    dataset.SeriesDescription, dataset.ImageType = "SYNTHETIC phantom", ["DERIVED", "PRIMARY"]
    dataset.SeriesNumber, dataset.InstanceNumber = 1, place + 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 128 * _LEVELS, 255 * _LEVELS + 1
    dataset.PixelData = (pixels.astype(np.uint16) * _LEVELS).astype("<u2").tobytes()
    return dataset
