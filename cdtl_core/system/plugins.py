"""Plugins: what installed packages add to cdtl by entry points, loaded when a name is used.

A package names them in the groups ``cdtl.backbones``, ``cdtl.losses``, ``cdtl.methods``, ``cdtl.metrics``,
``cdtl.modalities`` and ``cdtl.transforms``. Code that runs from a bundle knows only the plugins that the bundle
carries: what else is installed at a site was not approved.
"""

import importlib.metadata
import importlib.util
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

from cdtl_core.errors import CdtlError, ConfigError
from cdtl_core.system.foreign import visible
from cdtl_core.system.shipped import bundle_root

__all__ = ["KINDS", "Plugin", "adopt", "adopt_all", "clashes", "explaining", "faults", "guarded", "kind_in_words"]
__all__ += [
    "naming_plugin",
    "package_key",
    "plugin_of",
    "plugin_packages",
    "plugins",
    "plugins_of_package",
    "sources_of",
]

_SINGULAR = {
    "backbones": "backbone",
    "losses": "loss",
    "methods": "method",
    "metrics": "metric",
    "modalities": "modality",
    "transforms": "transform",
}
KINDS = tuple(_SINGULAR)
_OURS = {"cdtl_core", "server", "client"}
_adopted: set[tuple[str, str]] = set()
_faults: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Plugin:
    """One entry point.

    Attributes:
        kind: One of `KINDS`.
        name: The name that settings and options use.
        value: Where it is, ``module:object``.
        package: The package that brings it.
        version: Of the package.
    """

    kind: str
    name: str
    value: str
    package: str
    version: str

    @property
    def what(self) -> str:
        """The plugin in words."""
        return f"the {kind_in_words(self.kind)} '{self.name}' of the package {self.package} {self.version}"

    def load(self) -> Any:
        """Import and return the object.

        Raises:
            ConfigError: The package is broken; the sentence names it.
        """
        try:
            return importlib.metadata.EntryPoint(self.name, self.value, f"cdtl.{self.kind}").load()
        except Exception as error:  # a package's own code may raise anything
            raise ConfigError(
                f"{self.what} cannot be loaded from {self.value} ({type(error).__name__}: {visible(error)}): repair "
                f"the package {self.package}, or remove it."
            ) from None


def kind_in_words(kind: str) -> str:
    """Return a kind for a sentence: ``backbone`` for ``backbones``."""
    return _SINGULAR[kind]


def plugins(kind: str) -> tuple[Plugin, ...]:
    """Return the plugins of a kind, by name; of two with one name the first, which `plugin_of` refuses."""
    return tuple(found[0] for found in _by_name(kind).values())


def clashes(kind: str) -> dict[str, tuple[Plugin, ...]]:
    """Return the plugins of a kind whose name several packages bring, by name."""
    return {name: found for name, found in _by_name(kind).items() if len(found) > 1}


def _by_name(kind: str) -> dict[str, tuple[Plugin, ...]]:
    own = [one for one in _declared() if one.kind == kind]
    return {name: tuple(one for one in own if one.name == name) for name in sorted({one.name for one in own})}


def plugin_of(kind: str, name: str) -> Plugin | None:
    """Return the plugin of this name; None if no package brings it.

    Raises:
        ConfigError: Two packages bring it.
    """
    found = _by_name(kind).get(name, ())
    if len(found) > 1:
        raise ConfigError(
            f"{found[0].what} exists twice, also in the package {found[1].package} {found[1].version}: remove one of "
            "the two packages."
        )
    return found[0] if found else None


def adopt(kind: str, name: str, register: Callable[[str, Any], None]) -> None:
    """Register what a package brings under a name, once in a process.

    Args:
        kind: One of `KINDS`.
        name: The name; without a plugin of this name nothing happens.
        register: Takes name and object, and refuses a name that exists.

    Raises:
        ConfigError: The package is broken, or the name exists already.
    """
    plugin = plugin_of(kind, name)
    if plugin is None or (kind, name) in _adopted:
        return
    found = plugin.load()
    try:
        register(name, found)
    except ConfigError as error:
        raise ConfigError(f"{plugin.what} cannot be used: {error}") from None
    _adopted.add((kind, name))


def adopt_all(kind: str, register: Callable[[str, Any], None]) -> None:
    """Register all plugins of a kind but those of `clashes` and broken ones, for a list; `faults` names the latter."""
    for name in _by_name(kind).keys() - clashes(kind).keys():
        try:
            adopt(kind, name, register)
        except ConfigError as error:
            _faults[kind, name] = str(error)


def faults(kind: str) -> dict[str, str]:
    """Return why plugins of a kind could not be registered by `adopt_all`, a sentence each, by name."""
    return {name: why for (of, name), why in _faults.items() if of == kind}


@contextmanager
def naming_plugin(kind: str, name: str) -> Iterator[None]:
    """Name the package where a plugin's own code fails inside the block; errors of cdtl pass.

    Raises:
        ConfigError: It failed.
    """
    try:
        yield
    except CdtlError:
        raise
    except Exception as error:  # a package's own code may raise anything
        plugin = plugin_of(kind, name)
        if plugin is None:  # registered by a script, whose author reads the traceback
            raise
        raise ConfigError(
            f"{plugin.what} failed ({type(error).__name__}: {visible(error)}): repair the package {plugin.package}, or "
            "choose another."
        ) from error


@contextmanager
def explaining(what: str, remedy: str) -> Iterator[None]:
    """Say what failed and what to do where a registered function raises; cdtl's own errors pass, as those of plugins.

    Args:
        what: What was done, such as ``the loss 'focal' failed``.
        remedy: What to do, without a full stop.

    Raises:
        ConfigError: It raised.
    """
    try:
        yield
    except CdtlError:
        raise
    except Exception as error:  # anyone's code may raise anything
        raise ConfigError(f"{what} ({type(error).__name__}: {visible(error)}): {remedy}.") from error


def guarded(kind: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plugin's function that names its package where it fails."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        with naming_plugin(kind, name):
            return function(*arguments)

    return call


def plugins_of_package(package: str) -> tuple[Plugin, ...]:
    """Return the plugins that a package brings, of all kinds."""
    return tuple(one for one in _declared() if package_key(one.package) == package_key(package))


def plugin_packages() -> tuple[str, ...]:
    """Return the names of all packages that bring a plugin."""
    return tuple(sorted({one.package for one in _declared()}))


def package_key(package: str) -> str:
    """Return the form of a package's name that is compared: ``My.Package`` and ``my-package`` are the same."""
    return re.sub(r"[-_.]+", "-", package).lower()


def sources_of(package: str) -> dict[str, Path]:
    """Return the modules and folders of Python source that hold a package's plugins, by their top-level names.

    Raises:
        ConfigError: The package is not installed, brings no plugin, or is not plain Python source.
    """
    found = plugins_of_package(package)
    if not found:
        raise ConfigError(
            f"the package {package} brings no plugin here: install it, and see its plugins with cdtl config list."
        )
    return {
        name: _source(package, name)
        for name in sorted({one.value.partition(":")[0].partition(".")[0] for one in found})
    }


def _source(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(name) if name not in _OURS else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    origin = Path(spec.origin) if spec and spec.origin else None
    if origin is None or origin.suffix != ".py" or len(places) > 1:
        raise ConfigError(
            f"the module {name} of the package {package} cannot travel to the sites: only a package or module of "
            "Python source with a name of its own can."
        )
    return Path(places[0]) if places else origin


@cache
def _declared() -> tuple[Plugin, ...]:
    carried = tomllib.loads((bundle_root() / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {}).get("cdtl")
    if carried is not None:  # this code runs from a bundle
        return tuple(Plugin(**one) for one in carried["plugins"])
    return tuple(dict.fromkeys(_installed()))


def _installed() -> Iterator[Plugin]:
    points = importlib.metadata.entry_points()  # reads a file of every installed package
    for kind in KINDS:
        for point in points.select(group=f"cdtl.{kind}"):
            if point.dist is not None:
                yield Plugin(kind, point.name, point.value, point.dist.name, point.dist.version)
