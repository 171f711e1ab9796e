"""Volumes and slides as hospitals have them, written small, for tests of what reads them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.read import read_images, survey_images
from cdtl_core.data.frame import Slices
from cdtl_core.errors import DataError

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def ramp(count: int, height: int = 6, width: int = 8) -> np.ndarray:
    """D H W of int16 whose slices differ and whose rows and columns have a direction."""
    z, y, x = np.mgrid[:count, :height, :width]
    return (100 * z + 10 * y + x).astype(np.int16)


def write_slice(path: Path, pixels: np.ndarray, position: Sequence[float], **told: Any) -> Path:
    """One slice; `told` are further elements of its header, None removes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _image(pixels)
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(AXIAL)
    data.PixelSpacing = [1.0, 1.0]
    for keyword, value in told.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, volume: np.ndarray, *, step: float = 5.0, **told: Any) -> Path:
    """An axial series from the feet up, whose files are named from the head down."""
    series = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()} | told
    for place, pixels in enumerate(volume):
        write_slice(folder / f"IM{len(volume) - place:04d}", pixels, (0.0, 0.0, step * place), **series)
    return folder


def write_enhanced(path: Path, volume: np.ndarray, order: Sequence[int], *, step: float = 5.0, **told: Any) -> Path:
    """An enhanced multi-frame file: frame i is slice `order[i]` of the volume."""
    data = _image(volume[list(order)])
    data.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PlaneOrientationSequence = _items(ImageOrientationPatient=list(AXIAL))
    shared.PixelMeasuresSequence = _items(PixelSpacing=[1.0, 1.0])
    data.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for place in order:
        frame = Dataset()
        frame.PlanePositionSequence = _items(ImagePositionPatient=[0.0, 0.0, step * place])
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    for keyword, value in told.items():
        setattr(data, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_slide(path: Path, pixels: np.ndarray, *, um: float | None = 0.5, levels: int = 3) -> Path:
    """A pyramidal TIFF in tiles of 256 pixels, as scanners write it."""
    import tifffile  # of the extra `slides`

    told = {"resolution": (1e4 / um, 1e4 / um), "resolutionunit": "CENTIMETER"} if um else {}
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", **told}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, subifds=levels - 1, **options)
        for level in range(1, levels):
            writer.write(pixels[:: 2**level, :: 2**level], subfiletype=1, **{**options, "resolution": None})
    return path


def write_nifti(path: Path, volume: np.ndarray, *, step: float = 5.0) -> Path:
    """A NIfTI file of D H W, from the feet up, from front to back, from right to left."""
    import nibabel  # of the extra `nifti`

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-1.0, -1.0, step, 1.0])), path)
    return path


def _items(**elements: Any) -> Items:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return Items([item])


def _image(pixels: np.ndarray) -> Dataset:
    data, uid = Dataset(), generate_uid()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.MRImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid
    data.Modality, data.PatientID = "MR", "P1"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = pixels.astype("<i2").tobytes()
    return data


def read_or_refused(source: Path, read: Callable[[], Sequence[object]]) -> None:
    """A damaged file or folder is read, or refused in a sentence that names it; its reader does not crash."""
    try:
        assert len(read()) > 0
    except DataError as error:
        sentence = str(error)
        assert sentence.startswith(f"the image {source} ")
        assert sentence.endswith(".")
        assert "crashes" not in sentence


def read_all(path: Path, slices: str = "all") -> tuple[Plan, list[np.ndarray]]:
    """What the survey of a file or folder finds, and the pixels of the chosen images."""
    plan = survey_images(path, Survey(Slices.parse(slices)))
    return plan, [picture.pixels for picture in read_images(path, plan)]
