"""The imaging modalities that a federation can hold; a new modality is one entry here."""

from dataclasses import dataclass

from cdtl_core.errors import ConfigError

__all__ = ["MODALITIES", "Modality", "modality_of"]


@dataclass(frozen=True)
class Modality:
    """An imaging modality.

    Attributes:
        name: The key used in configurations and messages.
        colour: Whether its images carry colour (stained tissue, skin).
        dicom: The codes of DICOM tag Modality (0008,0060) that belong to it.
    """

    name: str
    colour: bool
    dicom: tuple[str, ...]


MODALITIES: dict[str, Modality] = {
    m.name: m
    for m in (
        Modality("ultrasound", colour=False, dicom=("US", "IVUS")),
        Modality("mammography", colour=False, dicom=("MG",)),
        Modality("histology", colour=True, dicom=("SM", "GM")),
        Modality("mri", colour=False, dicom=("MR",)),
        Modality("ct", colour=False, dicom=("CT",)),
        Modality("xray", colour=False, dicom=("CR", "DX", "XA", "RF")),
        Modality("thermography", colour=True, dicom=("TG",)),
        Modality("dermoscopy", colour=True, dicom=("XC", "ES")),
    )
}


def modality_of(name: str) -> Modality:
    """Return the modality called `name`.

    Raises:
        ConfigError: No modality has this name.
    """
    if name not in MODALITIES:
        raise ConfigError(f"modality '{name}' is unknown: use one of {', '.join(MODALITIES)}.")
    return MODALITIES[name]
