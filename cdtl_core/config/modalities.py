"""The imaging modalities that a federation can hold; a new one is an entry here, a plugin, or `register_modality`."""

import re
from dataclasses import dataclass

from cdtl_core.errors import BY_SCRIPT, ConfigError, did_you_mean
from cdtl_core.system.plugins import adopt, adopt_all, plugins

__all__ = ["MODALITIES", "SHIPPED_MODALITIES", "Modality", "modalities", "modality_of", "register_modality"]


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


SHIPPED_MODALITIES = frozenset(MODALITIES)


def modalities() -> dict[str, Modality]:
    """Return all modalities by name, those of plugins too, but for broken ones (`plugins.faults`)."""
    adopt_all("modalities", _register)
    return dict(MODALITIES)


def modality_of(name: str) -> Modality:
    """Return the modality called `name`.

    Raises:
        ConfigError: No modality has this name, or its plugin is broken.
    """
    adopt("modalities", name, _register)
    if name not in MODALITIES:
        known = dict.fromkeys([*MODALITIES, *(one.name for one in plugins("modalities"))])
        names = f"{did_you_mean(name, known)} one of {', '.join(known)}"
        raise ConfigError(f"modality '{name}' is unknown{names}.{BY_SCRIPT}")
    return MODALITIES[name]


def register_modality(modality: Modality) -> None:
    """Make a modality known to this process, for simulations and cohort checks.

    For the command line and for runs between hospitals, put it into a package (docs/guides/package.md).

    Args:
        modality: Its name is lower case and at most 48 characters long; its DICOM codes belong to no other modality.

    Raises:
        ConfigError: A part of it has a wrong form, the name is taken, or a DICOM code belongs to another modality.

    Examples:
        >>> from cdtl_core import Modality, register_modality
        >>> register_modality(Modality("endoscopy", colour=True, dicom=()))
    """
    if not isinstance(modality, Modality):
        raise ConfigError(f"{modality!r} is no modality: give cdtl_core.Modality(name, colour=..., dicom=(...)).")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,47}", modality.name):
        raise ConfigError(f"modality name {modality.name!r}: use a-z, 0-9, - and _, at most 48 characters.")
    if modality.name in MODALITIES:
        raise ConfigError(f"modality '{modality.name}' exists already: choose another name.")
    if not isinstance(modality.colour, bool):
        raise ConfigError(f"modality '{modality.name}': colour is {modality.colour!r}, use True or False.")
    if not isinstance(modality.dicom, tuple) or not all(_is_code(code) for code in modality.dicom):
        raise ConfigError(
            f"modality '{modality.name}': dicom is {modality.dicom!r}, use a tuple of codes in capitals, such as "
            "('OPT',), or () for none."
        )
    owners = {code: known.name for known in MODALITIES.values() for code in known.dicom}
    for code in modality.dicom:
        if code in owners:
            raise ConfigError(f"the DICOM code {code} belongs to {owners[code]}: leave it out of '{modality.name}'.")
    MODALITIES[modality.name] = modality


def _is_code(code: object) -> bool:
    return isinstance(code, str) and re.fullmatch(r"[A-Z0-9]{1,16}", code) is not None


def _register(name: str, modality: object) -> None:
    if not isinstance(modality, Modality) or modality.name != name:
        raise ConfigError(f"it is {modality!r}, not a cdtl_core.Modality called '{name}'.")
    register_modality(modality)
