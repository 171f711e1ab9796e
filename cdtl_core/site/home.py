"""Opens a site's folder: from `site.toml` to a `Site`, ready to train. None of it is sent."""

import functools
from pathlib import Path

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import SiteFolder
from cdtl_core.config.settings import load_site
from cdtl_core.data.cohort import Cohort
from cdtl_core.data.transforms import TRANSFORMS
from cdtl_core.federation.site import Site
from cdtl_core.models.model import shared_classifier
from cdtl_core.models.stages import check_division
from cdtl_core.site.cohort import open_cohort
from cdtl_core.training.device import open_hardware
from cdtl_core.training.objective import check_loss

__all__ = ["build_site", "open_site"]


def open_site(home: Path | str, config: RunConfig) -> Site:
    """Open a site's folder under the settings of a federation; opened once per process and settings.

    Args:
        home: The folder that holds the site's ``site.toml``. Its images are decoded and split by patient on the first
            call; both are kept in the folder.
        config: What the federation agreed on.

    Returns:
        The site, ready to train: ``site.cohort`` holds its images by split, ``site.model`` its network.

    Raises:
        ConfigError: `site.toml` is missing or wrong.
        DataError: The cohort cannot be used.
        ModelError: The backbone is unknown, or `train.views` is set and it cannot be run from its frozen stages on.

    Examples:
        >>> from cdtl_core import load_config, open_site
        >>> site = open_site("runs/demo/sites/north", load_config("tiny").run)
        >>> site.modality, site.cohort.num_patients
        ('ultrasound', 16)
    """
    home = Path(home)
    own = load_site(SiteFolder(home).settings)
    return _open(home.absolute(), own, config)


@functools.lru_cache(maxsize=128)
def _open(home: Path, own: SiteConfig, config: RunConfig) -> Site:
    check_loss(config)  # a wrong or unknown one is refused before the images are read
    for name in config.train.augment.transforms:
        TRANSFORMS.find(name)
    return build_site(own, config, open_cohort(home, config), cache=SiteFolder(home).features)


def build_site(own: SiteConfig, config: RunConfig, cohort: Cohort, *, cache: Path) -> Site:
    """Return the site of a cohort that was read before, here or on another machine.

    Args:
        own: The site's settings.
        config: What the federation agreed on.
        cohort: Its images.
        cache: Folder of its feature cache.

    Raises:
        ConfigError: The device that it asks for is not on this machine.
        ModelError: As in `open_site`.
    """
    site = Site(
        name=own.site,
        modality=own.modality,
        positive=cohort.labels.index(config.task.positive),
        cohort=cohort,
        config=config,
        model=shared_classifier(config.model, len(cohort.labels), config.image.size, frozen_norms=config.dp.enabled),
        device=open_hardware(own.device, own.compute),
        cache=cache,
    )
    if site.entry is not None and site.entry.stages is not None:
        check_division(site.model.backbone, site.entry.stages, config.image.size)
    return site
