"""Choice of the device. The CUDA and MPS paths are untested, since no such machine was available."""

import contextlib

import torch

from cdtl_core.errors import ConfigError

__all__ = ["autocast", "choose_device"]


def choose_device(wanted: str) -> torch.device:
    """Return the torch device of a setting; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: The device asked for is not on this machine.
    """
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if found[name]))
    if not found[wanted.partition(":")[0]]:
        raise ConfigError(f"device '{wanted}' is not on this machine: set device to auto or cpu.")
    return torch.device(wanted)


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context for mixed precision on CUDA (bfloat16, no loss scaling needed), full precision elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()
