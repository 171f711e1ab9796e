"""The sites of `cdtl try`: a number of synthetic ones, or folders of images."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cdtl_core.config.settings import site_of
from cdtl_core.errors import ConfigError
from cdtl_core.system.foreign import visible

if TYPE_CHECKING:
    from cdtl_core.config import SimulationConfig, SiteConfig

__all__ = ["folders_of", "given_sites", "repeated"]


def repeated(settings: "SimulationConfig", count: int) -> "SimulationConfig":
    """Return the settings with this number of synthetic sites: those of the settings, then more with other patients.

    Raises:
        ConfigError: More sites are wanted than there are, and one of them has its own images.
    """
    sites = [_another(settings.sites[n % len(settings.sites)], n // len(settings.sites)) for n in range(count)]
    return settings.model_copy(update={"sites": tuple(sites)})


def _another(site: "SiteConfig", turn: int) -> "SiteConfig":
    if not turn:
        return site
    phantom = site.data.phantom
    if phantom is None:
        raise ConfigError(f"site {site.site} has its own images, so it cannot take part twice: lower --sites.")
    data = site.data.model_copy(update={"phantom": phantom.model_copy(update={"seed": phantom.seed + 100 * turn})})
    return site.model_copy(update={"site": f"{site.site}-{turn + 1}", "data": data})


def given_sites(
    settings: "SimulationConfig",
    out: Path,
    folders: Mapping[str, tuple[Path, str]],
    label_map: Mapping[str, str],
    patient_pattern: str,
) -> "SimulationConfig":
    """Return the settings with one site for each folder of images, after the cohort check of each.

    Args:
        settings: The study.
        out: Folder of the trial.
        folders: Site to the folder of its images and its modality.
        label_map: Label of the folders to label of the study; empty text: left out.
        patient_pattern: Where the patient is in an image's path, as `place_data` reads it.

    Raises:
        ConfigError: A label is unknown.
        DataError: A folder holds no images, or they have errors.
    """
    from cdtl_core.cli.findings import check_data, listed_labels
    from cdtl_core.config.folders import RunFolder
    from cdtl_core.deploy.enrolling import check_labels, place_data

    sites = []
    for name, (folder, modality) in folders.items():
        home, tell = RunFolder(out).site(name).home, partial(_tell, name)
        data = place_data(home, folder, patient_pattern=patient_pattern, tell=tell)
        tree = {"site": name, "modality": modality, "data": {**data, "label_map": label_map}}
        own = site_of(tree, f"--site {name}")
        check_labels(listed_labels(own), label_map, settings.run.task.labels)
        check_data(own, settings.run.task.unit, quiet=False)
        sites.append(own)
    return settings.model_copy(update={"sites": tuple(sites)})


def _tell(site: str, text: str) -> None:
    typer.echo(f"{site}: {visible(text, 2000)}")


def folders_of(given: Sequence[str], modalities: Sequence[str]) -> dict[str, tuple[Path, str]]:
    """Return the folder and the modality of each site.

    Args:
        given: Each ``NAME=FOLDER``.
        modalities: One for all folders, or ``NAME=MODALITY`` for each.

    Raises:
        ConfigError: An option is malformed or missing, or a modality is unknown.
    """
    from cdtl_core.config.modalities import MODALITIES, modality_of

    folders = _named("--site", given, "FOLDER")
    for_all = [one for one in modalities if "=" not in one][-1:]
    found = {name: one for one in for_all for name in folders}
    found |= _named("--modality", [one for one in modalities if "=" in one], "MODALITY")
    if unknown := sorted(set(found) - set(folders)):
        raise ConfigError(f"--modality names {unknown[0]}, which no --site does: correct the name.")
    if missing := [name for name in folders if name not in found]:
        raise ConfigError(
            f"the modality of {missing[0]} is missing: add --modality {missing[0]}=MODALITY, one of "
            f"{', '.join(MODALITIES)}."
        )
    return {name: (Path(folder), modality_of(found[name]).name) for name, folder in folders.items()}


def _named(option: str, values: Sequence[str], what: str) -> dict[str, str]:
    """Return the values of an option that is given as ``NAME=...`` for each site."""
    found: dict[str, str] = {}
    for value in values:
        name, sign, rest = value.partition("=")
        if not (name and sign and rest):
            raise ConfigError(f"{option} {value} is not NAME={what}: write for example {option} north={what.lower()}.")
        if name in found:
            raise ConfigError(f"{option} names {name} twice: keep one.")
        found[name] = rest
    return found
