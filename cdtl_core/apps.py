"""Where the app folders and the shipped configurations are: in a checkout or in the installed wheel."""

import sys
from pathlib import Path

from cdtl_core.errors import ConfigError

__all__ = ["add_to_path", "bundle_root", "find_config"]


def bundle_root() -> Path:
    """The folder that holds ``server``, ``client``, ``simulations``, ``configs`` and ``pyproject.toml``."""
    package = Path(__file__).resolve().parent
    return next(root for root in (package.parent, package / "bundle") if (root / "server" / "app.py").exists())


def add_to_path() -> None:
    """Make the app folders importable; first on the path, so that no other package of the same name wins."""
    root = str(bundle_root())
    if root not in sys.path:
        sys.path.insert(0, root)


def find_config(name: Path) -> Path:
    """A configuration by path, or by the name of a shipped one (``demo`` or ``configs/demo.toml``).

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
