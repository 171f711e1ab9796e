"""A site's folder: its `site.toml` opened into a `Site`, ready to train. Nothing of it is sent."""

import functools
from pathlib import Path

from cdtl_core.config import ModelConfig, RunConfig, SiteConfig
from cdtl_core.errors import ConfigError
from cdtl_core.federation.site import Site
from cdtl_core.imaging.cohort import Cohort, build_cohort
from cdtl_core.imaging.manifest import Case, read_manifest
from cdtl_core.imaging.phantom import write_phantoms
from cdtl_core.imaging.split import split_patients
from cdtl_core.learning.device import choose_device
from cdtl_core.learning.model import Classifier, build_classifier
from cdtl_core.settings import load_site

__all__ = ["SETTINGS", "labels_of", "open_site"]

SETTINGS = "site.toml"


def open_site(home: Path, config: RunConfig) -> Site:
    """Open a site's folder under the settings of a federation; opened once per process and settings.

    Raises:
        ConfigError: `site.toml` is missing or wrong.
        DataError: The cohort cannot be used.
    """
    own = load_site(home / SETTINGS)
    return _open(home.absolute(), own.model_dump_json(), config.model_dump_json())


@functools.lru_cache(maxsize=128)
def _open(home: Path, own_settings: str, settings: str) -> Site:
    own, config = SiteConfig.model_validate_json(own_settings), RunConfig.model_validate_json(settings)
    labels = labels_of(own, config)
    if config.task.positive not in labels:
        raise ConfigError(f"site {own.site} lacks the positive label '{config.task.positive}': add it to labels.")
    return Site(
        name=own.site,
        modality=own.modality,
        positive=labels.index(config.task.positive),
        cohort=_cohort(home, own, config, labels),
        config=config,
        model=_classifier(config.model.model_dump_json(), len(labels), config.image.size),
        device=choose_device(own.device),
    )


def labels_of(own: SiteConfig, config: RunConfig) -> tuple[str, ...]:
    """The labels a site predicts: its own if it names any, else the task's."""
    return own.labels or config.task.labels


def _cohort(home: Path, own: SiteConfig, config: RunConfig, labels: tuple[str, ...]) -> Cohort:
    cases = _cases(home, own, config, labels)
    split = split_patients(cases, test=config.split.test, val=config.split.val, seed=config.seed, labels=labels)
    return build_cohort(cases, split, labels=labels, size=config.image.size, cache=home / "cache")


def _cases(home: Path, own: SiteConfig, config: RunConfig, labels: tuple[str, ...]) -> tuple[Case, ...]:
    phantom = own.data.phantom
    if phantom is not None:
        folder = home / f"phantoms-{phantom.patients}-{phantom.seed}-{config.image.size}"
        manifest = folder / "manifest.csv"
        if not manifest.exists():
            write_phantoms(
                folder, modality=own.modality, num_patients=phantom.patients, seed=phantom.seed, size=config.image.size
            )
    else:
        manifest = own.data.root.expanduser() / (own.data.manifest or "")
    return read_manifest(manifest, labels=labels, label_map=own.data.label_map, where=own.data.where)


@functools.lru_cache(maxsize=4)
def _classifier(model: str, num_classes: int, image_size: int) -> Classifier:
    """One network per architecture and process: every use overwrites all of its weights."""
    return build_classifier(ModelConfig.model_validate_json(model), num_classes, image_size)
