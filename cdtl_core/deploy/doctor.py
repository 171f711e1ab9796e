"""Checks of this machine: versions, device, disk, ports, clock. Nothing is sent."""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cdtl_core
from cdtl_core.deploy.front import loopback_warning
from cdtl_core.deploy.sandbox import sandbox_fault
from cdtl_core.system.isolation import isolation_fault

__all__ = ["Symptom", "examine_machine"]

State = Literal["ok", "warning", "wrong"]
_NEEDED = ("torch", "torchvision", "timm", "flwr", "opacus", "numpy", "pydicom", "cryptography")
_OPTIONAL = {"onnxruntime": "onnx", "tensorboardX": "tensorboard", "mlflow-skinny": "mlflow", "numba": "fast"}
_SPACE_GB, _LITTLE_GB = 2.0, 7.0
_COMMAND_S = 5.0


@dataclass(frozen=True)
class Symptom:
    """The result of one check: subject, state, and what was seen or what to do."""

    name: str
    state: State
    text: str


def examine_machine(folder: Path, port: int, *, quick: bool = False) -> dict[str, Any]:
    """Run all checks.

    Args:
        folder: Folder of future runs, or of a site.
        port: Port of a future coordinator.
        quick: Leave out the device, since loading torch takes seconds.

    Returns:
        ``checks``, each a `Symptom` as a dictionary.
    """
    looks: tuple[tuple[str, Callable[[], Iterator[tuple[State, str]]]], ...] = (
        ("versions", _versions),
        *([] if quick else [("device", _device)]),
        ("memory", _memory),
        ("disk", lambda: _disk(folder)),
        ("ports", lambda: _ports(port)),
        ("isolation", _isolation),
        ("clock", _clock),
    )
    return {"checks": [asdict(Symptom(name, state, text)) for name, look in looks for state, text in look()]}


def _versions() -> Iterator[tuple[State, str]]:
    yield (
        "ok",
        f"cdtl {cdtl_core.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )
    found, missing = [], []
    for name in _NEEDED:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield "ok", ", ".join(found)
    if missing:
        yield "wrong", f"not installed: {', '.join(missing)}; install cdtl again."
    extras = []
    for name, extra in _OPTIONAL.items():
        with suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            extras.append(extra)
    yield "ok", f"extras: {', '.join(extras) or 'none'} of {', '.join(_OPTIONAL.values())}"


def _device() -> Iterator[tuple[State, str]]:
    import torch

    from cdtl_core.training.device import choose_device

    device = choose_device("auto")
    began = time.perf_counter()
    side = torch.ones(512, 512, device=device)
    total = float((side @ side).sum())
    seconds = time.perf_counter() - began
    name = f" ({torch.cuda.get_device_name(0)})" if device.type == "cuda" else ""
    if total != 512.0**3:
        yield "wrong", f"{device}{name} computes wrongly: use another device."
        return
    yield (
        "ok",
        f"{device}{name}, {torch.get_num_threads()} threads; a product of 512 x 512 took {1000 * seconds:.0f} ms",
    )


def _memory() -> Iterator[tuple[State, str]]:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    yield ("ok" if free >= _SPACE_GB else "warning"), f"{free:.1f} GB of memory are free"


def _disk(folder: Path) -> Iterator[tuple[State, str]]:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield "wrong", f"{place} cannot be written: choose another folder."
        return
    free = shutil.disk_usage(place).free / 1e9
    if free < _SPACE_GB:
        yield "wrong", f"only {free:.1f} GB are free in {place}: {_SPACE_GB:.0f} GB are needed."
    else:
        yield ("ok" if free >= _LITTLE_GB else "warning"), f"{free:.0f} GB are free in {place}"
    scratch = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    yield ("ok" if scratch >= 1 else "warning"), f"{scratch:.0f} GB are free for scratch in {tempfile.gettempdir()}"


def _ports(port: int) -> Iterator[tuple[State, str]]:
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=2),
        ):
            yield "ok", "loopback connections work"
    except OSError as error:
        yield "wrong", f"loopback connections fail ({error.strerror}): every service needs them on its own machine."
    try:
        with socket.create_server(("", port)):
            yield "ok", f"port {port} is free for a coordinator"
    except OSError as error:
        yield (
            "warning",
            f"port {port} cannot be listened on ({error.strerror}): stop the program that uses it, or choose another "
            "with --port.",
        )


def _isolation() -> Iterator[tuple[State, str]]:
    if fault := isolation_fault():
        yield "warning", loopback_warning(fault)
    else:
        yield "ok", "a coordinator runs in its own network: other accounts here cannot reach its loopback ports"
    if fault := sandbox_fault():
        yield "warning", f"a site's approved code would run without a sandbox: {fault}"
    else:
        yield "ok", "a site's approved code runs in a sandbox (bubblewrap)"


def _clock() -> Iterator[tuple[State, str]]:
    """Check the clock; Flower refuses a node whose clock is fast by more than 5 s."""
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    newest = max(path.stat().st_mtime for path in Path(cdtl_core.__file__).parent.glob("*.py"))
    if time.time() < newest - 86400:
        yield "wrong", f"the clock says {now}, which is before cdtl was installed: set it by a time server (NTP)."
        return
    told = _synchronised()
    if told == "yes":
        yield "ok", f"{now}, kept by a time server"
    elif told == "no":
        yield "warning", f"{now}, NOT kept by a time server: set up NTP, sites and coordinator must agree to 5 s."
    else:
        yield (
            "ok",
            f"{now}; this machine does not show whether a time server keeps it; cdtl site check compares it with the "
            "coordinator",
        )


def _synchronised() -> str:
    program = shutil.which("timedatectl")
    if program is None:
        return ""
    with suppress(subprocess.TimeoutExpired, OSError):
        done = subprocess.run(  # noqa: S603
            [program, "show", "--property=NTPSynchronized", "--value"],
            capture_output=True, text=True, timeout=_COMMAND_S, check=False,
        )  # fmt: skip
        return done.stdout.strip()
    return ""
