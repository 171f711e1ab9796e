"""Checks of single values: a code is one of the standard's, a number is in the range that it can have."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

__all__ = ["CODES", "MAKERS", "NUMBERS", "Check", "codes", "listed", "maker", "numbers_of"]

Check = Callable[[Any], Any]
"""A value to what is kept of it; None: nothing."""


def codes(*allowed: str) -> Check:
    """Return a check that keeps only these words."""
    known = frozenset(allowed)

    def check(value: Any) -> Any:
        word = str(value).strip(" \0").upper()
        return word if word in known else None

    return check


_MODALITY = codes(
    *("BI", "CR", "CT", "DMS", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM", "OP", "OPT", "OT"),
    *("PT", "PX", "RF", "RG", "SM", "TG", "US", "XA", "XC"),
)
_SIDE = codes("L", "R", "B", "U")
CODES: Mapping[str, Check] = {
    "Modality": _MODALITY,
    "PhotometricInterpretation": codes(
        *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
        *("YBR_PARTIAL_420", "YBR_PARTIAL_422"),
    ),
    "RescaleType": codes("HU", "OD", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"),
    "VOILUTFunction": codes("LINEAR", "LINEAR_EXACT", "SIGMOID"),
    "PresentationLUTShape": codes("IDENTITY", "INVERSE"),
    "BurnedInAnnotation": codes("YES", "NO"),
    "Laterality": _SIDE,
    "ImageLaterality": _SIDE,
    "FrameLaterality": _SIDE,
    "ViewPosition": codes(
        *("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "CC", "MLO", "ML", "LM", "LMO", "SIO", "FB", "AT", "CV"),
        *("XCC", "XCCL", "XCCM", "RM", "RL", "TAN", "LATERAL", "AXIAL", "OBLIQUE"),
    ),
    "CodeValue": codes(
        *("399162004", "R-10242", "399368009", "R-10226", "399260004", "R-10224", "399352003", "R-10228")
    ),
    "CodingSchemeDesignator": codes("SCT", "SRT", "SNM3"),
}
"""Attributes whose value is one of the standard's words; the codes are those of a mammogram's view."""

NUMBERS: Mapping[str, tuple[float, float, int]] = {
    "SamplesPerPixel": (1, 4, 1),
    "PlanarConfiguration": (0, 1, 1),
    "NumberOfFrames": (1, 100_000, 1),
    "Rows": (1, 65535, 1),
    "Columns": (1, 65535, 1),
    "BitsAllocated": (1, 64, 1),
    "BitsStored": (1, 64, 1),
    "HighBit": (0, 63, 1),
    "PixelRepresentation": (0, 1, 1),
    "PixelPaddingValue": (-32768, 65535, 1),
    "PixelPaddingRangeLimit": (-32768, 65535, 1),
    "PixelAspectRatio": (1, 100, 2),
    "PixelSpacing": (1e-5, 100, 2),
    "ImagerPixelSpacing": (1e-5, 100, 2),
    "SliceThickness": (0, 1000, 1),
    "SpacingBetweenSlices": (-1000, 1000, 1),
    "RescaleSlope": (-1e5, 1e5, 1),
    "RescaleIntercept": (-65536, 65536, 1),
    "WindowCenter": (-65536, 65536, 16),
    "WindowWidth": (0, 131072, 16),
    "ImagePositionPatient": (-10000, 10000, 3),
    "ImageOrientationPatient": (-1, 1, 6),
    "InstanceNumber": (0, 99999, 1),
}
"""Attributes of numbers: smallest, largest, and most values."""
_WHOLE = frozenset({"IS", "US", "SS", "US or SS"})

MAKERS = (
    *("3DHISTECH", "ACUSON", "AGFA", "ALOKA", "ALPINION", "ATL", "BRUKER", "CANON", "CARESTREAM", "CHISON", "ESAOTE"),
    *(
        "FUJI",
        "FUJIFILM",
        "GE",
        "GIOTTO",
        "HAMAMATSU",
        "HITACHI",
        "HOLOGIC",
        "IMS",
        "KODAK",
        "KONICA",
        "KRETZ",
        "LEICA",
    ),
    *("LORAD", "MEDISON", "METALTRONICA", "MINDRAY", "NEUSOFT", "OLYMPUS", "PHILIPS", "PLANMED", "SAMSUNG", "SECTRA"),
    *("SHIMADZU", "SIEMENS", "SONOSCAPE", "SONOSITE", "SUPERSONIC", "TOSHIBA", "UNITED", "VENTANA"),
)
"""Words by which a maker is recognised; only the word is kept, since the attribute is free text."""


def maker(value: Any) -> str | None:
    """Return the maker that a text begins with; None for any other text."""
    first = re.split(r"[ ,._-]", str(value).strip(" \0").upper(), maxsplit=1)[0]
    return first if first in MAKERS else None


def listed(names: tuple[str, ...], otherwise: Callable[[str], str]) -> Check:
    """Return a check that keeps listed names and replaces all others.

    Args:
        names: They are compared without regard to case.
        otherwise: A name to what stands in its place.
    """
    known = {name.casefold(): name for name in names}

    def check(value: Any) -> Any:
        text = str(value).strip(" \0")
        return known.get(text.casefold()) or (otherwise(text) if text else None)

    return check


def numbers_of(keyword: str, element: DataElement) -> Any:
    """Return the numbers of an attribute with eight digits at most; None if one is out of its range or no number.

    Args:
        keyword: An attribute of `NUMBERS`.
        element: Its value as it arrived.
    """
    low, high, most = NUMBERS[keyword]
    raw = element.value
    try:
        found = [float(one) for one in (raw if isinstance(raw, MultiValue | list | tuple) else [raw])]
    except (TypeError, ValueError):
        return None
    if not 0 < len(found) <= most or not all(low <= one <= high for one in found):
        return None
    is_whole = element.VR in _WHOLE
    if is_whole and any(one != int(one) for one in found):
        return None
    kept: list[Any] = [int(one) if is_whole else float(f"{one:.8g}") for one in found]  # fits a decimal string
    return kept[0] if len(kept) == 1 else kept
