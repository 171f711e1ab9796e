"""The code that sites run, as Flower's app bundle; the same versions give the same bytes on every machine."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from cdtl_core.config import RunConfig
from cdtl_core.config.modalities import SHIPPED_MODALITIES
from cdtl_core.errors import ConfigError
from cdtl_core.flower import stage_app
from cdtl_core.models.backbones import is_shipped_backbone
from cdtl_core.models.own_nets import OWN
from cdtl_core.system.plugins import Plugin, kind_in_words, plugin_of, plugins_of_package
from cdtl_core.training.objective import LOSSES

__all__ = ["build_bundle", "bundle_sha256", "check_carried"]


def build_bundle(app: Path, packages: Iterable[str] = ()) -> bytes:
    """Stage the app in the empty folder `app` and return Flower's bundle of it.

    Built by Flower's own function, so that `flwr run` on that folder submits the same bytes.

    Args:
        app: The folder.
        packages: Packages whose plugins it carries, as `plugins` of the run names them.

    Raises:
        ConfigError: A package is not installed, or cannot travel.
    """
    from flwr.cli.build import build_fab_from_disk

    stage_app(app, packages)
    return bytes(build_fab_from_disk(app))


def bundle_sha256(bundle: bytes | None = None, packages: Iterable[str] = ()) -> str:
    """Return the SHA-256 of a bundle in hex; without an argument, of the bundle of the installed cdtl and packages."""
    if bundle is None:
        with tempfile.TemporaryDirectory(prefix="cdtl-bundle-") as folder:
            bundle = build_bundle(Path(folder) / "app", packages)
    return hashlib.sha256(bundle).hexdigest()


def check_carried(config: RunConfig, modalities: Iterable[str]) -> None:
    """Refuse a run that needs code which its bundle does not carry.

    Args:
        config: The run.
        modalities: Of its sites.

    Raises:
        ConfigError: The bundle lacks a plugin, or a package of `plugins` is not installed here.
    """
    carried = {(one.kind, one.name) for package in config.plugins for one in _of_package(package)}
    for kind, name in _own_names(config, modalities):
        if (kind, name) in carried:
            continue
        plugin = plugin_of(kind, name)
        if plugin is None:
            raise ConfigError(
                f"the {kind_in_words(kind)} '{name}' is neither of cdtl nor of a package that is installed here, and a "
                "site runs only the code of the bundle: put it into a package (docs/guides/package.md), install that, "
                "and name it in plugins."
            )
        raise ConfigError(
            f"{plugin.what} is not in the bundle, and a site runs only the code of the bundle: set plugins = "
            f'["{plugin.package}"] in the run.'
        )


def _of_package(package: str) -> tuple[Plugin, ...]:
    if found := plugins_of_package(package):
        return found
    raise ConfigError(
        f"the run carries the package {package}, which is not installed here or brings no plugin: install the version "
        "that coordinator and sites have agreed on."
    )


def _own_names(config: RunConfig, modalities: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield kind and name of everything in a run that is not cdtl's own."""
    name = config.model.backbone
    if not is_shipped_backbone(name) and (name in OWN or plugin_of("backbones", name)):  # others are unknown anyway
        yield "backbones", name
    if config.train.loss not in LOSSES.shipped:
        yield "losses", config.train.loss
    yield from (("transforms", name) for name in config.train.augment.transforms)
    yield from (("modalities", name) for name in sorted(set(modalities)) if name not in SHIPPED_MODALITIES)
