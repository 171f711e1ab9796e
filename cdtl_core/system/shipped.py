"""Locations of the apps' entry points and the shipped configurations, in a checkout or in the installed wheel."""

from pathlib import Path

from cdtl_core.errors import ConfigError

__all__ = ["bundle_root", "find_config"]


def bundle_root() -> Path:
    """Return the folder that holds ``server``, ``client``, ``configs`` and ``pyproject.toml``."""
    package = Path(__file__).resolve().parents[1]
    return next(root for root in (package.parent, package / "bundle") if (root / "server" / "app.py").exists())


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
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.toml")))
    raise ConfigError(f"the configuration {name} does not exist: give a .toml file or a shipped name ({names}).")
