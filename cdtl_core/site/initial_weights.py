"""Initial weights of the last runs, ``HOME/initial_weights/<hash>.safetensors``, checked on arrival and on reading.

Reading and hashing them takes longer than a small round, and the sites of a simulation share one process. Therefore
hashes and the weights themselves are kept. A file with another number, size or time is hashed again.
"""

import contextlib
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cdtl_core.config.folders import SiteFolder
from cdtl_core.errors import FederationError, ModelError
from cdtl_core.models.weights import Weights, load_weights, save_weights, weights_hash
from cdtl_core.system.durable import replace_file

__all__ = ["holds_initial_weights", "load_initial_weights", "save_initial_weights"]

_KEPT = 3
"""Number of runs that can alternate without requesting their initial weights again."""


@dataclass(frozen=True)
class _File:
    """The current state of a file: its device, number, size and times; sites of a simulation may share one."""

    path: Path = field(compare=False)
    device: int
    number: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def at(cls, path: Path) -> "_File":
        found = path.stat()
        return cls(path.absolute(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def holds_initial_weights(home: Path, wanted: str) -> bool:
    """Whether the initial weights with this hash are on disk and undamaged."""
    with contextlib.suppress(FederationError):
        load_initial_weights(home, wanted)
        return True
    return False


def save_initial_weights(home: Path, initial_weights: Weights, expected: str) -> None:
    """Store initial weights next to those of the last few runs; no other file of the folder is changed.

    Args:
        home: The site's folder.
        initial_weights: As they were received.
        expected: The hash that the coordinator announced.

    Raises:
        FederationError: They have another hash.
        PrivacyError: The hash is none, but a path.
    """
    if weights_hash(initial_weights) != expected:
        raise FederationError(
            "the received initial weights do not match the announced hash: ask the coordinator to start again."
        )
    path = SiteFolder(home).initial_weights(expected)
    if (sibling := _of_sibling(home, expected)) is not None:
        replace_file(path, sibling)
    else:
        save_weights(path, initial_weights)
    _written[expected] = _File.at(path)
    if expected not in _in_use:
        _use(initial_weights, expected)
    kept = sorted(filter(_is_kept, path.parent.iterdir()), key=lambda one: one.stat().st_mtime_ns)
    for old in kept[:-_KEPT]:
        if old != path:
            old.unlink(missing_ok=True)


def load_initial_weights(home: Path, expected: str) -> Weights:
    """Return the initial weights with this hash. All sites of this process share them: do not write to them.

    Raises:
        FederationError: The site does not have them, or they are damaged; the coordinator then sends them again.
        PrivacyError: The hash is none, but a path.
    """
    path = SiteFolder(home).initial_weights(expected)
    with contextlib.suppress(ModelError, OSError):
        file = _File.at(path)
        if _written.get(expected) == file or _hash_of(file) == expected:
            if expected not in _in_use:
                _use(_read(path, expected), expected)
            return _in_use[expected]
    raise FederationError("this site does not have the run's initial weights, or its copy is damaged: resume the run.")


def _is_kept(path: Path) -> bool:
    """Whether a file is ours: its name is a hash."""
    return bool(re.fullmatch(r"[0-9a-f]{64}\.safetensors", path.name))


_written: dict[str, _File] = {}
"""Hash to the file that this process has written last: until that changes, it need not be read to be trusted."""


def _of_sibling(home: Path, expected: str) -> Path | None:
    """Return the unchanged file that this process has written for another site of the same simulation; None if none."""
    file = _written.get(expected)
    with contextlib.suppress(OSError):
        if file is not None and file.path.parents[2] == home.absolute().parent and file == _File.at(file.path):
            return file.path
    return None


@functools.lru_cache(maxsize=4096)
def _hash_of(file: _File) -> str:
    return weights_hash(load_weights(file.path))


_in_use: dict[str, Weights] = {}
"""Hash to weights, of one run at a time: those of a large network take hundreds of megabytes."""


def _read(path: Path, expected: str) -> Weights:
    weights = load_weights(path)
    if weights_hash(weights) != expected:
        raise ModelError("it has changed since it was checked")
    return weights


def _use(weights: Weights, sha256: str) -> None:
    """Keep weights with this hash for all sites of this process. All copies are equal: it does not matter whose."""
    _in_use.clear()
    _in_use[sha256] = {name: _laid_out(value) for name, value in weights.items()}


def _laid_out(value: torch.Tensor) -> torch.Tensor:
    """Return a copy of weights in the networks' memory layout, so that loading copies them in order."""
    return value.clone(memory_format=torch.channels_last if value.ndim == 4 else torch.contiguous_format)
