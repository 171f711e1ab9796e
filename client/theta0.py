"""The theta0 that a site holds, ``HOME/theta0/<hash>.safetensors``: checked when it comes and when it is read."""

import contextlib
from pathlib import Path

import torch

from cdtl_core.errors import FederationError, ModelError
from cdtl_core.learning.weights import Weights, load_weights, save_weights, weights_hash

__all__ = ["held_theta0", "load_theta0", "save_theta0"]

_State = tuple[Path, int, int, int, int]
_MOST = 4096
_sound: dict[_State, str] = {}
"""Files of this process by path, number, size and times, each with its hash: they need not be read again."""
_held: dict[str, Weights] = {}
"""The theta0 that was asked for last, for all sites of this process."""


def held_theta0(home: Path) -> str:
    """Hash of the theta0 on disk, empty if there is none or if it is damaged; a damaged one is removed."""
    for path in (home / "theta0").glob("*.safetensors"):
        with contextlib.suppress(FederationError):
            load_theta0(home, path.stem)
            return path.stem
    return ""


def save_theta0(home: Path, theta0: Weights, expected: str) -> None:
    """Keep theta0.

    Raises:
        FederationError: Its hash is not the one that the server announced.
    """
    if weights_hash(theta0) != expected:
        raise FederationError("the theta0 received has another hash than announced: ask the coordinator to start anew.")
    for old in (home / "theta0").glob("*.safetensors"):
        old.unlink()
    path = home / "theta0" / f"{expected}.safetensors"
    save_weights(path, theta0)
    _note(_state(path), expected, theta0)


def load_theta0(home: Path, expected: str) -> Weights:
    """theta0 with this hash, not to be written to.

    A file that this process wrote or has checked is not read again while its size and times stay the same.

    Raises:
        FederationError: The site does not have it, or it is damaged; it is then removed, so that it is sent again.
    """
    path = home / "theta0" / f"{expected}.safetensors"
    with contextlib.suppress(ModelError, OSError):
        state = _state(path)
        if _sound.get(state) != expected or expected not in _held:
            _read(path, state, expected)
        return _held[expected]
    path.unlink(missing_ok=True)
    raise FederationError("this site lacks the theta0 that the server names, or its copy was damaged: resume the run.")


def _read(path: Path, state: _State, expected: str) -> None:
    theta0 = load_weights(path)
    if weights_hash(theta0) != expected:
        raise ModelError("it has another hash")
    _note(state, expected, theta0)


def _note(state: _State, expected: str, theta0: Weights) -> None:
    if len(_sound) >= _MOST:
        _sound.clear()
    _sound[state] = expected
    if expected not in _held:
        _held.clear()
        _held[expected] = {name: _laid_out(value) for name, value in theta0.items()}


def _laid_out(value: torch.Tensor) -> torch.Tensor:
    """In the layout of the networks, so that loading copies without changing places."""
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _state(path: Path) -> _State:
    found = path.stat()
    return path.absolute(), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
