"""Weights as plain values, tensor names to CPU tensors: load, save, compare."""

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from cdtl_core.errors import ModelError
from cdtl_core.system.durable import replace_bytes

__all__ = ["InMemory", "Weights", "check_finite", "check_shapes", "hash_once", "is_finite", "load_into"]
__all__ += ["load_weights", "save_hashed", "save_weights", "take", "to_half", "weights_hash"]

Weights = dict[str, torch.Tensor]


class InMemory:
    """Weights that equal others if all tensors are views of the same memory, and torch has counted no write to it.

    torch does not count writes through `data` or numpy: only for weights that nothing writes to, never for a check.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = dict(weights)
        self._key = tuple(
            (name, value.data_ptr(), value._version, value.dtype, value.shape, value.stride())
            for name, value in weights.items()
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InMemory) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def take(model: nn.Module, names: Iterable[str]) -> Weights:
    """Return contiguous CPU copies of a model's tensors."""
    state = model.state_dict()
    return {name: torch.empty(state[name].shape, dtype=state[name].dtype).copy_(state[name]) for name in names}


def load_into(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the named tensors of a model in place.

    Raises:
        ModelError: A name is unknown to the model, or a shape differs.
    """
    state = model.state_dict()
    check_shapes(state, weights)
    for name, value in weights.items():
        state[name].copy_(value)


def check_shapes(state: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that do not fit a model's state.

    Raises:
        ModelError: A name is unknown to the model, or a shape differs.
    """
    for name, value in weights.items():
        if name not in state:
            raise ModelError(
                f"the weights hold '{name}', which the model does not have: use weights of the same backbone."
            )
        if state[name].shape != value.shape:
            raise ModelError(
                f"the weights hold '{name}' with shape {tuple(value.shape)}, the model has "
                f"{tuple(state[name].shape)}: use weights of the same backbone and label map."
            )


def is_finite(value: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; checks the range, in a fortieth of `torch.isfinite`'s time."""
    value = value.detach()
    if value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last):
        value = value.permute(0, 2, 3, 1)  # in memory order, since torch would copy it first
    return not value.numel() or all(math.isfinite(end) for end in torch.aminmax(value))


def check_finite(weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse NaN and infinite values.

    Raises:
        ModelError: A value is not finite; `what` names the weights in the sentence.
    """
    for name, value in weights.items():
        if not is_finite(value):
            raise ModelError(
                f"{what} holds values that are not finite in '{name}': check model.weights, or lower train.lr."
            )


def to_half(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Round to float16: 11 significant bits of a difference, never of weights themselves.

    Raises:
        ModelError: A value is beyond float16's range.
    """
    half = {name: value.to(torch.float16) for name, value in weights.items()}
    check_finite(half, "the rounded difference")
    return half


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write weights as .safetensors, atomically."""
    replace_bytes(path, save(dict(weights)))


def save_hashed(path: Path, weights: Mapping[str, torch.Tensor]) -> str:
    """Write weights as `save_weights` does; return the SHA-256 of the file in hex, computed while the disk is busy."""
    content = save(dict(weights))
    with ThreadPoolExecutor(1, "hash") as pool:
        digest = pool.submit(hashlib.sha256, content)
        replace_bytes(path, content)
    return digest.result().hexdigest()


def load_weights(path: Path) -> Weights:
    """Read a .safetensors file.

    Raises:
        ModelError: The file is missing or damaged.
    """
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights {path} cannot be read ({error}): restore the file.") from None


def weights_hash(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and values in hex, independent of the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].contiguous()
        digest.update(f"{name}/{value.dtype}/{tuple(value.shape)}\n".encode())
        digest.update(value.numpy().data)
    return digest.hexdigest()


def hash_once(weights: Weights) -> str:
    """Return `weights_hash` of a run's own initial weights, computed once; not for a check, see `InMemory`."""
    return _hash_of(InMemory(weights))


@functools.lru_cache(maxsize=1)
def _hash_of(weights: InMemory) -> str:
    return weights_hash(weights.weights)
