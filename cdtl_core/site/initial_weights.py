"""Initial weights of the last runs, ``HOME/initial_weights/<hash>.safetensors``: checked at arrival and when read."""

import contextlib
import re
from pathlib import Path

import torch

from cdtl_core.config.schema import inside
from cdtl_core.errors import FederationError, ModelError
from cdtl_core.models.weights import Weights, load_weights, save_weights, weights_hash

__all__ = ["holds_initial_weights", "load_initial_weights", "save_initial_weights"]

_State = tuple[Path, int, int, int, int]
_MOST = 4096
_KEPT = 3
"""So many runs can take turns without asking for their initial weights again."""
_sound: dict[_State, str] = {}
"""Files of this process by path, number, size and times, each with its hash: they need not be read again."""
_held: dict[str, Weights] = {}
"""The initial weights that was asked for last, for all sites of this process."""


def holds_initial_weights(home: Path, wanted: str) -> bool:
    """Whether this initial weights is on disk and undamaged."""
    with contextlib.suppress(FederationError):
        load_initial_weights(home, wanted)
        return True
    return False


def save_initial_weights(home: Path, initial_weights: Weights, expected: str) -> None:
    """Keep the initial weights, and those of the last few runs beside it; no other file of the folder is touched.

    Raises:
        FederationError: Its hash is not the one that the server announced.
        PrivacyError: The hash is none, but a path.
    """
    if weights_hash(initial_weights) != expected:
        raise FederationError(
            "the initial weights received has another hash than announced: ask the coordinator to start again."
        )
    path = _path(home, expected)
    save_weights(path, initial_weights)
    _note(_state(path), expected, initial_weights)
    kept = sorted(filter(_is_kept, path.parent.iterdir()), key=lambda one: one.stat().st_mtime_ns)
    for old in kept[:-_KEPT]:
        if old != path:
            old.unlink(missing_ok=True)


def load_initial_weights(home: Path, expected: str) -> Weights:
    """initial_weights with this hash, not to be written to.

    A file that this process wrote or has checked is not read again while its size and times stay the same.

    Raises:
        FederationError: The site does not have it, or it is damaged; the server then sends it again.
        PrivacyError: The hash is none, but a path.
    """
    path = _path(home, expected)
    with contextlib.suppress(ModelError, OSError):
        state = _state(path)
        if _sound.get(state) != expected or expected not in _held:
            _read(path, state, expected)
        return _held[expected]
    raise FederationError(
        "this site lacks the initial weights that the server names, or its copy was damaged: resume the run."
    )


def _path(home: Path, hash: str) -> Path:
    return inside(home, "initial_weights", f"{hash}.safetensors")


def _is_kept(path: Path) -> bool:
    """Whether we wrote a file: its name is a hash."""
    return bool(re.fullmatch(r"[0-9a-f]{64}\.safetensors", path.name))


def _read(path: Path, state: _State, expected: str) -> None:
    initial_weights = load_weights(path)
    if weights_hash(initial_weights) != expected:
        raise ModelError("it has another hash")
    _note(state, expected, initial_weights)


def _note(state: _State, expected: str, initial_weights: Weights) -> None:
    if len(_sound) >= _MOST:
        _sound.clear()
    _sound[state] = expected
    if expected not in _held:
        _held.clear()
        _held[expected] = {name: _laid_out(value) for name, value in initial_weights.items()}


def _laid_out(value: torch.Tensor) -> torch.Tensor:
    """In the layout of the networks, so that loading copies without changing places."""
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _state(path: Path) -> _State:
    found = path.stat()
    return path.absolute(), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
