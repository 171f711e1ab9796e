"""The attributes that are kept of an image from a PACS; everything else is dropped, and identifiers become hashes.

A new data set is built from a list of what is wanted, so nothing is kept because it was forgotten. Values are built
too: a code is one of the standard's words, a number is parsed, checked against its range and written again. Free text,
dates, names, private attributes, overlays and anything nested that is not listed have no way through.
docs/guides/pacs.md lists the attributes with their reasons; a test compares.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from cdtl_core.data.identity import hashed_uid, pseudonym
from cdtl_core.pacs.faults import PacsError
from cdtl_core.pacs.streams import clean_pixels
from cdtl_core.pacs.tables import PALETTES, copy_palette, element_of, gray_table, value_of
from cdtl_core.pacs.values import CODES, NUMBERS, listed, maker, numbers_of

__all__ = ["BURNED_IN", "GROUPS", "HASHED", "Keeper", "LeftOutError", "Shown", "kept_keywords"]

HASHED = ("PatientID", "AccessionNumber")
"""Identifiers that become keyed hashes of 16 digits."""
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
_DEVICE = ("Manufacturer", "ManufacturerModelName")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameAnatomySequence": ("FrameLaterality",),
}
"""Functional groups of an enhanced image, and the attributes that are kept in them."""
_FUNCTIONAL = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_IN_GROUPS = {"FrameLaterality", "CodeValue", "CodingSchemeDesignator"}
_METHOD = "cdtl: listed attributes only"
_SLICED = {"CT", "MR", "PT"}
_KINDS = frozenset(
    name for name, (what, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and "Storage" in what
)
_PLAIN = {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian}
_PICTURES = {
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless),
    *(uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000, uid.RLELossless),
}
"""Compressed forms of which `streams.py` knows where text can be; films, for example, are not among them."""
BURNED_IN, NO_IMAGE = "names may be burned into the image", "no image of a known kind"
NO_PATIENT, UNKNOWN_FORM = "no patient or no UID", "stored in an unknown way"


class LeftOutError(Exception):
    """An image is left out on purpose; its text is the reason, of a fixed list."""


@dataclass(frozen=True)
class Shown:
    """One image as it may be written.

    Attributes:
        content: The DICOM file.
        patient: Keyed hash of the patient.
        accession: Keyed hash of the accession number; empty if the image has none.
        series: Keyed hash of the series.
        name: Keyed hash of the image.
        number: Its place in the series.
        is_slice: Whether it has a position in the body.
        device: Maker and model, the latter a keyed hash unless the site listed it.
    """

    content: bytes
    patient: str
    accession: str
    series: str
    name: str
    number: int
    is_slice: bool
    device: str


def kept_keywords() -> tuple[str, ...]:
    """Return all attributes that a file can hold, at any depth."""
    palettes = [f"{one}{part}" for one in PALETTES for part in ("Descriptor", "Data")]
    return (
        *("SOPClassUID", *_UIDS, *HASHED, *_DEVICE, *CODES, *NUMBERS, *_TABLES, "LUTDescriptor", "LUTData", *palettes),
        *("ViewCodeSequence", *_FUNCTIONAL, *GROUPS, "PatientIdentityRemoved", "DeidentificationMethod", "PixelData"),
    )


class Keeper:
    """Turns images of a PACS into images without identifiers.

    Args:
        key: The site's key of keyed hashes.
        devices: Names of device models that are kept.
    """

    def __init__(self, key: bytes, devices: tuple[str, ...] = ()) -> None:
        self._key = key
        self._model = listed(devices, lambda text: f"model-{pseudonym(key, f'device {text}')[:8]}")

    def name(self, identifier: str) -> str:
        """Return the keyed hash of a study, a series or an accession number."""
        return pseudonym(self._key, _text(identifier))

    def shown(self, dataset: Dataset) -> Shown:
        """Return what may be written of an image.

        Raises:
            LeftOutError: It is no image, has names burned into its pixels, or is stored in an unknown way.
            PacsError: It is damaged.
        """
        syntax = self._check_kind(dataset)
        try:
            return self._shown(dataset, syntax)
        except PacsError:
            raise
        except Exception:  # pydicom's errors repeat values
            raise PacsError("an image is damaged or cut short") from None

    def _shown(self, dataset: Dataset, syntax: uid.UID) -> Shown:
        kept = self._attributes(dataset)
        if any(name not in kept for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")):
            raise PacsError("an image does not describe its pixels")
        is_wide = kept.BitsAllocated > 8 and not syntax.is_encapsulated
        kept.add_new("PixelData", "OW" if is_wide else "OB", clean_pixels(kept, dataset.PixelData, syntax))
        kept["PixelData"].is_undefined_length = syntax.is_encapsulated
        return Shown(
            content=_encoded(kept, syntax),
            patient=kept.PatientID,
            accession=kept.get("AccessionNumber", ""),
            series=self.name(dataset.SeriesInstanceUID),
            name=self.name(dataset.SOPInstanceUID),
            number=int(kept.get("InstanceNumber", 0)),
            is_slice="ImagePositionPatient" in kept and kept.get("Modality") in _SLICED,
            device=" ".join(str(kept[name].value) for name in _DEVICE if name in kept),
        )

    def _check_kind(self, dataset: Dataset) -> uid.UID:
        """Return the transfer syntax, or refuse."""
        if _text(value_of(dataset, "BurnedInAnnotation")).upper() == "YES":
            raise LeftOutError(BURNED_IN)
        kind = uid.UID(_text(value_of(dataset, "SOPClassUID")))
        if "PixelData" not in dataset or kind not in _KINDS:
            raise LeftOutError(NO_IMAGE)
        if any(not _text(value_of(dataset, name)) for name in (*_UIDS, "PatientID")):
            raise LeftOutError(NO_PATIENT)
        syntax = uid.UID(_text(dataset.file_meta.TransferSyntaxUID))
        if syntax not in _PICTURES | _PLAIN:
            raise LeftOutError(UNKNOWN_FORM)
        # what arrives deflated or implicit was read: one form, whatever the protocol
        return syntax if syntax.is_encapsulated else uid.ExplicitVRLittleEndian

    def _attributes(self, dataset: Dataset) -> Dataset:
        kept = Dataset()
        kept.SOPClassUID = uid.UID(_text(dataset.SOPClassUID))
        for keyword in _UIDS:
            setattr(kept, keyword, hashed_uid(self._key, _text(dataset[keyword].value)))
        for keyword in HASHED:
            if text := _text(value_of(dataset, keyword)):
                setattr(kept, keyword, pseudonym(self._key, text))
        _copy(dataset, kept, [name for name in (*CODES, *NUMBERS) if name not in _IN_GROUPS])
        for keyword, check in zip(_DEVICE, (maker, self._model), strict=True):
            if (found := check(value_of(dataset, keyword) or "")) is not None:
                setattr(kept, keyword, found)
        _copy_items(dataset, kept, "ViewCodeSequence", lambda one: _part(one, ("CodeValue", "CodingSchemeDesignator")))
        for keyword in _FUNCTIONAL:
            _copy_items(dataset, kept, keyword, _functional)
        for keyword in _TABLES:
            _copy_items(dataset, kept, keyword, gray_table)
        copy_palette(dataset, kept)
        kept.PatientIdentityRemoved, kept.DeidentificationMethod = "YES", _METHOD
        return kept


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip(" \0")


def _copy(dataset: Dataset, kept: Dataset, keywords: Iterable[str]) -> None:
    for keyword in keywords:
        element = element_of(dataset, keyword)
        if element is not None:
            value = numbers_of(keyword, element) if keyword in NUMBERS else CODES[keyword](element.value)
            if value is not None:
                setattr(kept, keyword, value)


def _copy_items(dataset: Dataset, kept: Dataset, keyword: str, convert: Callable[[Dataset], Dataset | None]) -> None:
    """Rebuild the items of a sequence; it is dropped if nothing of any item is kept.

    Args:
        dataset: What arrived.
        kept: Gets the sequence.
        keyword: Of the sequence.
        convert: An item to what is kept of it; None: the item is dropped.
    """
    value = value_of(dataset, keyword)
    items = [convert(item) for item in value] if isinstance(value, Sequence) else []
    found = [item for item in items if item is not None]
    if any(len(item) for item in found):
        setattr(kept, keyword, Sequence(found))


def _part(item: Dataset, keywords: tuple[str, ...]) -> Dataset:
    kept = Dataset()
    _copy(item, kept, keywords)
    return kept


def _functional(item: Dataset) -> Dataset:
    """Return the groups of one frame; an empty one keeps the place of its frame."""
    kept = Dataset()
    for keyword, inner in GROUPS.items():
        _copy_items(item, kept, keyword, lambda one, inner=inner: _part(one, inner))  # type: ignore[misc]
    return kept


def _encoded(kept: Dataset, syntax: uid.UID) -> bytes:
    """Return the file: an empty preamble and file meta of our own."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kept.SOPClassUID, kept.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    kept.file_meta, target = meta, BytesIO()
    kept.save_as(target, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return target.getvalue()
