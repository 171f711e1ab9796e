"""The modules that Flower's two apps import, directly or not: what the bundle must hold, and all that it may hold.

``python -m tests.closure`` writes them into pyproject.toml as ``fab-include``.
"""

import ast
import re
from functools import cache
from pathlib import Path

import grimp

from cdtl_core.system.shipped import bundle_root

ROOT = bundle_root()
DATA = ("cdtl_core/results/templates/card.md",)
"""Files that are read and not imported."""


@cache
def closure() -> frozenset[str]:
    """Files of the modules that the apps import; imports inside functions count, those for type checkers do not.

    Importing a module runs the packages around it. A module that is named in a string is started with ``python -m``.
    """
    graph = grimp.build_graph("cdtl_core", "client", "server", exclude_type_checking_imports=True, cache_dir=None)
    found: set[str] = set()
    left = {"client.app", "server.app"}
    while left:
        module = left.pop()
        found.add(module)
        named = {text for text in _strings(_path(module)) if text in graph.modules}
        around = {module[:at] for at, letter in enumerate(module) if letter == "."}
        left |= (graph.find_modules_directly_imported_by(module) | around | named) - found
    return frozenset(_path(module).relative_to(ROOT).as_posix() for module in found)


def patterns() -> list[str]:
    """The closure as Flower's patterns: a folder all of whose modules are needed is one pattern."""
    needed, lines = closure(), []
    for folder in sorted({str(Path(name).parent) for name in needed}):
        present = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*.py")}
        lines += [f"{folder}/*.py"] if present <= needed else sorted(present & needed)
    return [*lines, *DATA]


def _path(module: str) -> Path:
    place = ROOT.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _strings(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def write() -> None:
    """Put the patterns into pyproject.toml."""
    path, lines = ROOT / "pyproject.toml", "".join(f'    "{pattern}",\n' for pattern in patterns())
    present = re.compile(r"^fab-include = \[.*?\]\n", re.MULTILINE | re.DOTALL)
    text, count = present.subn(f"fab-include = [\n{lines}]\n", path.read_text(encoding="utf-8"))
    assert count == 1
    path.write_text(text)


if __name__ == "__main__":
    write()
