"""Version, entry points of the apps and shipped configurations, in a checkout, an installed wheel or a bundle."""

import tomllib
from pathlib import Path

from cdtl_core.errors import ConfigError, did_you_mean

__all__ = ["bundle_root", "code_version", "find_config", "is_shipped", "shipped_names"]


def bundle_root() -> Path:
    """Return the folder that holds ``server``, ``client``, ``configs`` and ``pyproject.toml``."""
    package = Path(__file__).resolve().parents[1]
    return next(root for root in (package.parent, package / "bundle") if (root / "server" / "app.py").exists())


def code_version() -> str:
    """The version of this code, from the pyproject.toml that travels with it.

    The metadata of the installed wheel would not do: at a site the bundle's cdtl_core may be of another version.
    """
    text = (bundle_root() / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def is_shipped(path: Path) -> bool:
    """Whether a configuration is one that cdtl ships."""
    return path.resolve().parent == bundle_root() / "configs"


def shipped_names() -> list[str]:
    """Return the names of the configurations that cdtl ships."""
    return sorted(path.stem for path in (bundle_root() / "configs").glob("*.toml"))


def find_config(name: Path) -> Path:
    """Find a configuration by path, or by the name of a shipped one (``demo`` or ``configs/demo.toml``).

    Raises:
        ConfigError: Neither exists.
    """
    shipped = bundle_root() / "configs"
    candidates = [name]
    if name.parent in {Path(), Path("configs")}:
        candidates += [shipped / name.name, shipped / f"{name.name}.toml"]
    for path in candidates:
        if path.is_file():
            return path
    names = shipped_names()
    raise ConfigError(
        f"the configuration {name} does not exist{did_you_mean(name.stem, names)} a .toml file or a shipped name "
        f"({', '.join(names)})."
    )
