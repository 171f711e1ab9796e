"""Default folder of a run."""

from pathlib import Path

__all__ = ["new_folder"]


def new_folder(parent: Path, name: str) -> Path:
    """Return the first of ``name``, ``name-2``, ``name-3`` ... that does not exist."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder
