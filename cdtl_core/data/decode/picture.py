"""A decoded image with the facts that its file holds about it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DicomTags", "Picture"]


@dataclass(frozen=True)
class DicomTags:
    """The DICOM header fields that intake needs; identifiers never leave the site.

    Attributes:
        modality: Tag (0008,0060), empty if absent.
        photometric: PhotometricInterpretation (0028,0004) as stored, e.g. ``MONOCHROME1``.
        burned_in: BurnedInAnnotation (0028,0301): True for YES, False for NO, None if absent.
        patient_id: (0010,0020), empty if absent.
        accession: AccessionNumber (0008,0050), empty if absent.
        sop_uid: SOPInstanceUID (0008,0018), empty if absent.
        frames: Number of frames.
        study_uid: StudyInstanceUID (0020,000D), empty if absent.
        series_uid: SeriesInstanceUID (0020,000E), empty if absent.
        view: ViewPosition (0018,5101), for example ``CC`` or ``MLO``; empty if absent.
        laterality: ``L``, ``R`` or ``B`` by ImageLaterality (0020,0062) or Laterality (0020,0060); empty if absent.
        is_slice: Whether the header gives the image a place in the patient.
    """

    modality: str
    photometric: str
    burned_in: bool | None
    patient_id: str
    accession: str
    sop_uid: str
    frames: int
    study_uid: str = ""
    series_uid: str = ""
    view: str = ""
    laterality: str = ""
    is_slice: bool = False

    @property
    def names_modality(self) -> bool:
        """Whether the modality says something: neither absent nor "other" nor "secondary capture"."""
        return self.modality not in {"", "OT", "SC"}


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: uint8, H W for gray (also when stored as equal colour channels) or H W 3 for RGB.
        bits: Bits per sample that the file stores.
        format: ``PNG``, ``JPEG``, ``TIFF``, ``BMP``, ``DICOM``, ``NIfTI``, ``slide`` ...
        tags: Of a DICOM file, else None.
        neighbours: The image is a slice: the channels are the slice before it, itself, and the slice after it.
    """

    pixels: npt.NDArray[np.uint8]
    bits: int
    format: str
    tags: DicomTags | None = None
    neighbours: bool = False

    @property
    def is_colour(self) -> bool:
        """Whether the image has colour."""
        return self.pixels.ndim == 3 and not self.neighbours

    @property
    def alone(self) -> npt.NDArray[np.uint8]:
        """The image without its neighbours: H W for gray, H W 3 for RGB."""
        return np.ascontiguousarray(self.pixels[..., 1]) if self.neighbours else self.pixels
