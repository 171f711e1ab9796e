"""Paths in configuration files are relative to the file; everywhere else they are relative to the working folder."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from cdtl_core.config.training import NAMED_WEIGHTS
from cdtl_core.system.shipped import is_shipped

__all__ = ["anchored", "portable_site", "with_root"]


def anchored(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a file's tree with its paths relative to the working folder instead of the file's; it is changed in place.

    A shipped configuration has no folder of images, so its paths stay as they are.
    """
    if is_shipped(path):
        return tree
    sites = tree.get("sites")
    for table in (tree, *(sites if isinstance(sites, list) else ())):
        data = table.get("data") if isinstance(table, dict) else None
        if isinstance(data, dict) and "phantom" not in data and isinstance(data.get("root"), str):
            data["root"] = _beside(path, data["root"])
    rows = tree["paper"].get("rows") if isinstance(tree.get("paper"), dict) else None
    for run in (tree, *(row.get("changes") for row in rows or () if isinstance(row, dict))):
        model = run.get("model") if isinstance(run, dict) else None
        if isinstance(model, dict) and isinstance(model.get("weights"), str) and model["weights"] not in NAMED_WEIGHTS:
            model["weights"] = _beside(path, model["weights"])
    return tree


def with_root(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a tree whose `data.root` is the file's folder if it has none."""
    data = tree.setdefault("data", {})
    if isinstance(data, dict) and "phantom" not in data and not is_shipped(path):
        data.setdefault("root", str(path.parent))
    return tree


def _beside(path: Path, name: str) -> str:
    return str(path.parent / Path(name).expanduser())


def portable_site(path: Path) -> bytes:
    """Return the text of a `site.toml` for another folder: a relative `data.root` becomes absolute."""
    content = path.read_bytes()
    try:
        tree = tomllib.loads(content.decode())
    except ValueError:
        return content  # it is read, and refused, where it is used
    moved = with_root(anchored(copy.deepcopy(tree), path.absolute()), path.absolute())
    return content if moved == tree else tomli_w.dumps(moved).encode()
