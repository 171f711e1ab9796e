"""Settings on disk and on the wire: TOML files, ``--set key=value``, and the flat scalars of Flower's run config."""

import copy
import functools
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel

from cdtl_core.config import RunConfig, SimulationConfig, SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.paths import anchored, with_root
from cdtl_core.config.validation import validated
from cdtl_core.errors import ConfigError
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.foreign import parse_json
from cdtl_core.system.shipped import find_config

__all__ = [
    "changed_run",
    "flatten",
    "load_config",
    "load_run",
    "load_simulation",
    "load_site",
    "read_toml",
    "save_toml",
    "simulation_toml",
    "unflatten",
]

_Model = TypeVar("_Model", bound=BaseModel)
_OF_SIMULATIONS = {
    "sites": "[[sites]]",
    "methods": "methods",
    **{key: f"[{key}]" for key in ("data", "paper", "cluster")},
}
"""Settings that only a simulation has, as they look in TOML."""


def load_config(source: str | Path | Mapping[str, Any], changes: Iterable[str] = ()) -> SimulationConfig:
    """Settings of a simulation from a TOML file, from a configuration that cdtl ships, or from a dictionary.

    Args:
        source: The path of a .toml file, the name of a shipped configuration (``"demo"``), or the tree that such a file
            holds. Paths in a file are relative to its folder; those of a shipped configuration, a tree or `changes` to
            the working folder.
        changes: Settings to change, each as ``key=value`` with dots: ``"train.lr=0.001"``.

    Returns:
        The checked settings; those that are not given have their defaults.

    Raises:
        ConfigError: The file does not exist or is not TOML, or a setting is unknown or ill-typed.

    Examples:
        >>> from cdtl_core import load_config
        >>> load_config("demo", ["federation.rounds=2"]).run.federation.rounds
        2
    """
    if isinstance(source, Mapping):
        tree = copy.deepcopy(dict(source))
        _applied(tree, changes)
        return _simulation_of(tree, (), "the settings")
    return load_simulation(find_config(Path(source)), changes)


def load_simulation(path: Path, overrides: Iterable[str] = ()) -> SimulationConfig:
    """Read a simulation's TOML file; `overrides` are ``key=value`` with dots, values as in TOML or plain text.

    Top-level `[data]` is what all sites share (``data.root``); all other tables but `sites`, `paper` and
    `cluster` are the run's. Paths in the file are relative to its folder, those in `overrides` to the working folder.

    Raises:
        ConfigError: The file is missing or not TOML, or a setting is unknown or ill-typed.
    """
    return _simulation_of(with_root(anchored(read_toml(path), path), path), overrides, str(path))


def _simulation_of(tree: dict[str, Any], overrides: Iterable[str], source: str) -> SimulationConfig:
    _refuse_site_list(tree, source)
    typed = _applied(tree, overrides)
    shared, sites = _typed(tree, "data", {}), _typed(tree, "sites", [])
    if "method" in tree:
        raise ConfigError(
            f"method in {source} is not a setting of a simulation: list the methods to compare under methods."
        )
    methods, parts = tree.pop("methods", None), [key for key in ("paper", "cluster") if key in tree]
    document: dict[str, Any] = {key: tree.pop(key) for key in parts}
    document |= {"run": tree, "sites": [_with_shared(site, shared) for site in sites]}
    if methods is not None:
        document["methods"] = methods.split(",") if isinstance(methods, str) else methods
    return validated(SimulationConfig, document, source, typed)


def _refuse_site_list(tree: Mapping[str, Any], source: str) -> None:
    if isinstance(tree.get("site"), list | dict):
        raise ConfigError(f"[[site]] in {source} is unknown: did you mean [[sites]]?")


def simulation_toml(config: SimulationConfig) -> dict[str, Any]:
    """Return the simulation as a TOML tree that `load_simulation` reads back to an equal value."""
    plain = config.model_dump(mode="json", exclude_none=True)
    run = {key: value for key, value in plain["run"].items() if key != "method"}
    return {**run, **{key: plain[key] for key in ("methods", "sites", "paper", "cluster") if key in plain}}


def load_run(path: Path, overrides: Iterable[str] = (), *, deployed: bool = False) -> RunConfig:
    """Read the settings that a federation agrees on; a weights file in it is relative to its folder.

    Args:
        path: The TOML file.
        overrides: Settings to change, each as ``key=value``.
        deployed: Refuse settings of a simulation in the same file, which are otherwise ignored.

    Raises:
        ConfigError: The file is missing or not TOML, or a setting is unknown, ill-typed or of a simulation.
    """
    tree = anchored(read_toml(path), path)
    _refuse_site_list(tree, str(path))
    typed = _applied(tree, overrides)
    simulated = {key: text for key, text in _OF_SIMULATIONS.items() if tree.pop(key, None)}
    if deployed and simulated:
        raise ConfigError(
            f"{path} has {', '.join(simulated.values())}, of which a run between hospitals makes no use. It has the "
            "sites that were admitted (federation.sites chooses among them), each with its own images, and one method "
            f"(method). Remove them from the file, or add {' '.join(f'--set {key}=' for key in simulated)}"
        )
    return validated(RunConfig, tree, str(path), typed)


def changed_run(run: RunConfig, changes: Mapping[str, Any], source: str) -> RunConfig:
    """Return a run with changed settings.

    Args:
        run: The run.
        changes: A tree of settings that replace the run's.
        source: Names the changes in errors.

    Raises:
        ConfigError: A setting is unknown or ill-typed.
    """
    return validated(RunConfig, _laid_over(run.model_dump(), changes), source)


def save_toml(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a tree of settings as TOML, atomically."""
    replace_bytes(path, tomli_w.dumps(tree).encode())


def load_site(path: Path) -> SiteConfig:
    """Read a hospital's `site.toml`; `data.root` is relative to its folder.

    Raises:
        ConfigError: The file is missing or not TOML, or a setting is unknown or ill-typed.
    """
    if path.name == SITE_FILE and not path.exists():
        home = path.parent
        raise ConfigError(f"{home} holds no site ({SITE_FILE} is missing): make one with cdtl site init {home}.")
    return _site_in(path, _text_of(path))


@functools.lru_cache(maxsize=64)  # a site reads its settings several times for each message
def _site_in(path: Path, text: str) -> SiteConfig:
    return validated(SiteConfig, with_root(anchored(_tree_of(path, text), path), path), str(path))


def site_of(tree: Mapping[str, Any], source: str) -> SiteConfig:
    """Return a hospital's settings from a tree; `source` names the tree in errors.

    Raises:
        ConfigError: A setting is unknown or ill-typed.
    """
    return validated(SiteConfig, tree, source)


def flatten(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Return a run as Flower's flat scalars, ``{"train.lr": 5e-4, ...}``, with lists and tables as JSON text."""
    flat: dict[str, bool | int | float | str] = {}

    def walk(prefix: str, tree: Mapping[str, Any]) -> None:
        for key, value in tree.items():
            if isinstance(value, dict) and prefix + key not in _TABLES:
                walk(f"{prefix}{key}.", value)
            else:
                flat[prefix + key] = json.dumps(value) if isinstance(value, list | dict) else value

    walk("", config.model_dump(mode="json"))
    return flat


def unflatten(flat: Mapping[str, Any]) -> RunConfig:
    """Return the run from Flower's flat scalars.

    Raises:
        ConfigError: A key is unknown or a value ill-typed.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = tree
        try:
            for part in path:
                node = node.setdefault(part, {})
            node[last] = parse_json(value) if key in _TABLES | _LISTS and isinstance(value, str) else value
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(f"the run's settings cannot be read at {key[:60]!r}: create the request again.") from None
    return validated(RunConfig, tree, "the run's settings")


def _laid_over(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    over = {
        key: _laid_over(tree[key], value) if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        for key, value in changes.items()
    }
    return {**tree, **over}


_TABLES = {"blend.donors"}
_LISTS = {"plugins", "task.labels", "model.levels", "federation.sites", "train.augment.transforms"}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: It is missing or not TOML.
    """
    return _tree_of(path, _text_of(path))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"the configuration {path} does not exist: give the path of a .toml file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} cannot be read ({error}): correct the file.") from None


def _tree_of(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"the configuration {path} cannot be read ({error}): correct the file.") from None


def _typed(tree: dict[str, Any], key: str, default: Any) -> Any:
    value = tree.pop(key, default)
    if not isinstance(value, type(default)):
        wanted = "a table, [data]" if key == "data" else "a list of tables, [[sites]]"
        raise ConfigError(f"{key} is {value!r}: it must be {wanted}; correct the setting.")
    return value


def _applied(tree: dict[str, Any], overrides: Iterable[str]) -> tuple[str, ...]:
    """Change settings, and return their keys; one text is one setting."""
    return tuple(_apply(tree, one) for one in ([overrides] if isinstance(overrides, str) else overrides))


def _apply(tree: dict[str, Any], override: str) -> str:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"'--set {override}' is not a setting: write key=value, for example --set train.lr=0.001.")
    *path, last = key.strip().split(".")
    node: Any = tree
    for part in path:
        node = _step(node, part, key)
    if not isinstance(node, dict):
        raise ConfigError(f"'--set {override}' is not a setting: '{'.'.join(path)}' has no keys below it.")
    node[last] = _value(text)
    return key.strip()


def _step(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        found = [item for item in node if isinstance(item, dict) and item.get("site") == part]
        if not found:
            raise ConfigError(f"'--set {key}' has no site '{part}': use a name from the configuration's [[sites]].")
        return found[0]
    return node.setdefault(part, {}) if isinstance(node, dict) else None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _with_shared(site: Any, shared: Mapping[str, Any]) -> Any:
    if not isinstance(site, dict) or not isinstance(site.get("data", {}), dict):
        return site
    own = site.get("data", {})
    both = {key: value for key, value in shared.items() if key != "root" or "phantom" not in own}
    return {**site, "data": {**both, **own}}
