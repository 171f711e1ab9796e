"""Device of a site, and how it is used: precision, determinism, compilation, share of a GPU's memory.

On a CPU only `compile` has an effect; its results have the same bits with all other settings.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from cdtl_core.config import ComputeConfig
from cdtl_core.errors import ConfigError

__all__ = ["CPU", "Hardware", "Where", "autocast", "choose_device", "compiled", "computing", "hardware_of"]
__all__ += ["open_hardware", "prepared", "send"]

CPU = torch.device("cpu")
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Hardware:
    """A device and how it is used.

    Attributes:
        device: Where tensors are computed.
        bfloat16: Whether networks run in mixed precision. Stored features are always computed in float32.
        deterministic: Whether a GPU gives the same bits in each run on the same card with the same versions.
        compile: Whether backbones are trained with `torch.compile`.
    """

    device: torch.device
    bfloat16: bool = False
    deterministic: bool = False
    compile: bool = False

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def exact(self) -> "Hardware":
        """The same hardware in float32."""
        return replace(self, bfloat16=False)

    def __str__(self) -> str:
        """The device's name, as torch writes it."""
        return str(self.device)


Where = torch.device | Hardware
"""Hardware from a site's settings, or a torch device, which has the default settings."""


def choose_device(wanted: str) -> torch.device:
    """Return the torch device of a setting; `auto` takes CUDA, then MPS, then the CPU. A UUID names a GPU.

    Raises:
        ConfigError: The device asked for is not on this machine.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = {f"cuda:{index}": torch.device("cuda", index) for index in range(gpus)} | {"cpu": CPU}
    if torch.backends.mps.is_available():
        known["mps"] = torch.device("mps")
    if wanted == "auto":
        return next(iter(known.values())) if gpus else known.get("mps", CPU)
    name = _name_of_uuid(wanted, gpus) if wanted.startswith("GPU-") else "cuda:0" if wanted == "cuda" else wanted
    if name not in known:
        raise ConfigError(
            f"device '{wanted}' is not on this machine, which has {' and '.join(known)}: set device to one of these, "
            "or to auto."
        )
    return known[name]


def open_hardware(wanted: str, config: ComputeConfig) -> Hardware:
    """Return the hardware of a site's settings, and limit this process's share of the GPU's memory.

    Args:
        wanted: `device` in site.toml.
        config: `[compute]` in site.toml.

    Raises:
        ConfigError: The device is not on this machine, or lacks bfloat16.
    """
    device = choose_device(wanted)
    bfloat16 = config.precision == "bfloat16"
    if bfloat16 and not _has_bfloat16(device):
        raise ConfigError(f"compute.precision is bfloat16 and {device} cannot compute in it: set it to float32.")
    if device.type == "cuda":
        if config.deterministic:
            os.environ.setdefault(_CUBLAS, ":4096:8")  # cuBLAS reads it when it is first used
        if config.memory_share < 1:
            torch.cuda.set_per_process_memory_fraction(config.memory_share, device)
    return Hardware(device, bfloat16, config.deterministic and device.type == "cuda", config.compile)


def hardware_of(where: Where) -> Hardware:
    """Return hardware unchanged, and a torch device with the default settings."""
    return where if isinstance(where, Hardware) else Hardware(where)


def autocast(hardware: Hardware) -> AbstractContextManager[object]:
    """Return a context for mixed precision on CUDA (bfloat16, no loss scaling needed), full precision elsewhere.

    Torch casts each weight once per context, so weights must not change inside it.
    """
    if not hardware.is_gpu:
        return nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=hardware.bfloat16)


@contextmanager
def prepared(hardware: Hardware) -> Iterator[None]:
    """Select the GPU and torch's settings for it inside the block, and restore them after it.

    In float32, convolutions do not use TF32, which torch allows by default. So results equal a CPU's up to rounding.
    """
    if not hardware.is_gpu:
        yield
        return
    rounds, strict = torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()
    with torch.cuda.device(hardware.device):
        try:
            torch.backends.cudnn.allow_tf32 = hardware.bfloat16
            torch.use_deterministic_algorithms(strict or hardware.deterministic)
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = rounds
            torch.use_deterministic_algorithms(strict)


@contextmanager
def computing(hardware: Hardware) -> Iterator[None]:
    """Apply `prepared` and `autocast` inside the block, for a network that is not trained in it."""
    with prepared(hardware), autocast(hardware):
        yield


@contextmanager
def compiled(backbone: nn.Module, wanted: bool) -> Iterator[None]:
    """Run the backbone with `torch.compile` inside the block; later blocks reuse the compiled code."""
    if not wanted:
        yield
        return
    backbone.compile()
    try:
        yield
    finally:
        backbone._compiled_call_impl = None


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor on a device; it goes to a GPU through pinned memory, so copying and computing overlap."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _name_of_uuid(wanted: str, gpus: int) -> str:
    found = {str(torch.cuda.get_device_properties(index).uuid).lower(): f"cuda:{index}" for index in range(gpus)}
    return found.get(wanted.lower().removeprefix("gpu-"), wanted)
