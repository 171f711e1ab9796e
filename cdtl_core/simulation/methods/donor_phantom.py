"""Control of relatedness: donors are replaced by synthetic images of a modality that the federation does not have.

Useful only against real images: phantoms of all modalities share their outlines, so they are related to a phantom
receiver.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from cdtl_core.config import SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import save_toml
from cdtl_core.data.synthetic.phantom import MODALITIES
from cdtl_core.errors import ConfigError
from cdtl_core.federation.site import Site
from cdtl_core.site.home import open_site

__all__ = ["with_phantom_donors"]


def with_phantom_donors(sites: Iterable[Site], donors: Collection[str], *, folder: Path, seed: int) -> list[Site]:
    """Return the sites; the named ones hold the same number of synthetic patients under their own names.

    The blend matrix and the order of random numbers stay the same as in the run with real donors.

    Args:
        sites: The sites of the federation.
        donors: Names of those that are replaced.
        folder: Folder for the synthetic images.
        seed: Seed of the images.

    Raises:
        ConfigError: The federation has every modality that can be synthesised, or a donor has more than two labels.
    """
    everyone = list(sites)
    present = {site.modality for site in everyone}
    absent = [modality for modality in MODALITIES if modality not in present]
    if not absent:
        raise ConfigError("the federation has every modality that can be synthesised: use another control.")
    return [_phantom(site, absent[0], folder, seed) if site.name in donors else site for site in everyone]


def _phantom(site: Site, modality: str, folder: Path, seed: int) -> Site:
    labels = site.cohort.labels
    if len(labels) != 2:
        raise ConfigError(f"site {site.name} has {len(labels)} labels, phantoms have two: use another control.")
    names = {"malignant": labels[site.positive], "benign": labels[1 - site.positive]}
    home = folder / f"{site.name}-{modality}-{site.cohort.num_patients}-{seed}"
    own = {
        "site": site.name,
        "modality": modality,
        "labels": labels,
        "data": {
            "phantom": {"patients": site.cohort.num_patients, "seed": seed},
            "label_map": {found: label for found, label in names.items() if found != label},
        },
    }
    if not (home / SITE_FILE).exists():
        save_toml(home / SITE_FILE, SiteConfig.model_validate(own).model_dump(mode="json", exclude_none=True))
    return replace(site, cohort=open_site(home, site.config).cohort)
