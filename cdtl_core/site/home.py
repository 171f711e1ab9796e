"""Opens a site's folder: from `site.toml` to a `Site`, ready to train. None of it is sent."""

import functools
from pathlib import Path

from cdtl_core.config import ModelConfig, RunConfig, SiteConfig
from cdtl_core.config.folders import SiteFolder
from cdtl_core.config.settings import load_site
from cdtl_core.data.cohort import Cohort, build_cohort, pixel_statistics
from cdtl_core.data.identity import KEY_FILE, load_key, pseudonym
from cdtl_core.data.manifest import Case, read_manifest
from cdtl_core.data.split import Split, split_patients
from cdtl_core.data.transforms import TRANSFORMS
from cdtl_core.errors import ConfigError, DataError
from cdtl_core.federation.contract import ModalityContract, PixelStatistics, round_patients
from cdtl_core.federation.site import Site
from cdtl_core.models.model import Classifier, build_classifier
from cdtl_core.models.stages import check_division
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import parse_json
from cdtl_core.training.device import open_hardware
from cdtl_core.training.objective import LOSSES

__all__ = ["build_site", "contract_of", "labels_of", "open_site"]


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
    _check_names(own, config)  # before the images are read
    return build_site(own, config, _cohort(home, own, config, labels_of(own, config)), cache=SiteFolder(home).features)


def _check_names(own: SiteConfig, config: RunConfig) -> None:
    LOSSES.find(config.train.loss)
    for name in config.train.augment.transforms:
        TRANSFORMS.find(name)
    if config.task.positive not in labels_of(own, config):
        raise ConfigError(f"site {own.site} lacks the positive label '{config.task.positive}': add it to labels.")


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
    labels = cohort.labels
    site = Site(
        name=own.site,
        modality=own.modality,
        positive=labels.index(config.task.positive),
        cohort=cohort,
        config=config,
        model=_classifier(config.model, len(labels), config.image.size, config.dp.enabled),
        device=open_hardware(own.device, own.compute),
        cache=cache,
    )
    if site.entry is not None and site.entry.stages is not None:
        check_division(site.model.backbone, site.entry.stages, config.image.size)
    return site


def contract_of(home: Path, site: Site) -> ModalityContract:
    """Return the facts that the site publishes about its cohort."""
    own, cohort = load_site(SiteFolder(home).settings), site.cohort
    statistics = None
    if own.publish.pixel_statistics:
        train = cohort.folds["train"]
        mean, std = pixel_statistics(train)
        statistics = PixelStatistics(mean=round(mean, 1), std=round(std, 1))
    return ModalityContract(
        site=site.name,
        modality=site.modality,
        labels=cohort.labels,
        positive=cohort.labels[site.positive],
        label_map=own.data.label_map,
        channels=cohort.channels,
        bit_depth=cohort.bits,
        patients=round_patients(cohort.num_patients),
        statistics=statistics,
        initial_weights_hash=own.publish.initial_weights_hash,
    )


def labels_of(own: SiteConfig, config: RunConfig) -> tuple[str, ...]:
    """Return the labels a site predicts: its own if it names any, else the task's."""
    return own.labels or config.task.labels


def _cohort(home: Path, own: SiteConfig, config: RunConfig, labels: tuple[str, ...]) -> Cohort:
    cases = _cases(home, own, config, labels)
    split = _split(home, cases, config, labels)
    data, size, cache = own.data, config.image.size, SiteFolder(home).cache
    return build_cohort(
        cases, split, labels=labels, size=size, cache=cache, frame=data.frame, strict=data.strict, box=data.box
    )


def _split(home: Path, cases: tuple[Case, ...], config: RunConfig, labels: tuple[str, ...]) -> dict[str, Split]:
    """Return the split, stored at the site by patient pseudonym, so that no patient moves when others are added.

    Args:
        home: The site's folder.
        cases: All images.
        config: The run.
        labels: The site's labels.
    """
    splits = SiteFolder(home).splits
    if splits.exists() and not (home / KEY_FILE).exists():
        raise DataError(
            f"{home / KEY_FILE} is missing but the folder splits exists: restore the key, or remove the folder splits."
        )
    key, shares = load_key(home), config.split
    path = splits / f"seed{config.seed}-test{shares.test}-val{shares.val}.json"
    kept: dict[str, Split] = parse_json(path.read_text()) if path.exists() else {}
    names = {case.patient: pseudonym(key, case.patient) for case in cases}
    before = {patient: kept[name] for patient, name in names.items() if name in kept}
    split = split_patients(cases, test=shares.test, val=shares.val, seed=config.seed, labels=labels, before=before)
    after = kept | {names[patient]: where for patient, where in split.items()}
    if after != kept:
        replace_json(path, after)
    return split


def _cases(home: Path, own: SiteConfig, config: RunConfig, labels: tuple[str, ...]) -> tuple[Case, ...]:
    phantom = own.data.phantom
    if phantom is not None:
        few = f"-{phantom.train}" if phantom.train else ""
        folder = SiteFolder(home).cache / f"phantoms-{phantom.patients}-{phantom.seed}-{config.image.size}{few}"
        manifest = folder / "manifest.csv"
        if not manifest.exists():
            from cdtl_core.data.synthetic.phantom import write_phantoms

            write_phantoms(
                folder,
                modality=own.modality,
                num_patients=phantom.patients,
                seed=phantom.seed,
                size=config.image.size,
                train=phantom.train,
            )
    else:
        manifest = own.data.root.expanduser() / (own.data.manifest or "")
    data = own.data
    return read_manifest(manifest, labels=labels, label_map=data.label_map, where=data.where, box=data.box)


@functools.lru_cache(maxsize=4)
def _classifier(config: ModelConfig, num_classes: int, image_size: int, frozen_norms: bool) -> Classifier:
    """Return the network of an architecture, one per process: every use overwrites all of its weights.

    Args:
        config: The network.
        num_classes: K.
        image_size: Side of the images in pixels.
        frozen_norms: Whether its norms are constants.
    """
    return build_classifier(config, num_classes, image_size, frozen_norms=frozen_norms)
