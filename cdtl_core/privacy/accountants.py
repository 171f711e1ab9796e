"""Opacus's accountants without the packages around them: a process that only reads a ledger needs no torch."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from cdtl_core.system.standins import late, stand_in, standing_in

__all__ = ["load_accountant"]

_ARRAYS = "scipy._lib._array_api"


@cache
def load_accountant(name: str, rdp_accountant: type | None = None) -> Any:
    """Return Opacus's module of an accountant, without torch unless Opacus is loaded already.

    Args:
        name: ``rdp`` or ``prv``.
        rdp_accountant: What ``prv`` takes for Opacus's `RDPAccountant`; None: that one.
    """
    if "opacus" in sys.modules:
        return importlib.import_module(f"opacus.accountants.{name}")
    root = _place("opacus")
    packages = [
        stand_in("opacus", __path__=[str(root)]),
        stand_in("opacus.optimizers", DPOptimizer=object),  # an annotation
        stand_in("opacus.accountants", __path__=[str(root / "accountants")]),
    ]
    if rdp_accountant:
        packages.append(stand_in("opacus.accountants.rdp", RDPAccountant=rdp_accountant))
    try:
        with _little_scipy(name), standing_in(*packages):
            found = importlib.import_module(f"opacus.accountants.{name}")
    except (ImportError, AttributeError, TypeError):  # another version, which needs more of them
        found = None
    for own in [key for key in sys.modules if key.startswith("opacus.")]:
        del sys.modules[own]  # Opacus itself, when it is imported, loads them as its own
    return found or importlib.import_module(f"opacus.accountants.{name}")


@contextmanager
def _little_scipy(name: str) -> Iterator[None]:
    """Let imports inside the block find the functions of scipy that the accountants call, without their packages.

    The functions are scipy's own, and return the same bits. Their packages import each other, and copy all of numpy
    for the sake of other array libraries, which takes a tenth of a second.
    """
    before = set(sys.modules)
    special, integrate, fft = (_bare(f"scipy.{name}") for name in ("special", "integrate", "fft"))
    known = {"Array": object, "xp_capabilities": lambda **_: lambda function: function, "__getattr__": _late_arrays}
    arrays = stand_in(_ARRAYS, **known)
    signal = stand_in("scipy.signal", convolve=late("scipy.signal", "convolve"))  # for steps of several kinds
    with standing_in(special, integrate, fft, arrays, signal):
        _fill(special, "scipy.special._ufuncs", "binom", "erfc", "log_ndtr")
        if name == "prv":
            _fill(integrate, "scipy.integrate._quadpack_py", "quad")
            _fill(fft, "scipy.fft._pocketfft.basic", "rfft", "irfft")
        yield
    for name in set(sys.modules) - before:
        if name.startswith("scipy.") and str(getattr(sys.modules[name], "__file__", "")).endswith(".py"):
            del sys.modules[name]  # they hold stand-ins; compiled modules hold none, and cannot be loaded twice


def _fill(package: ModuleType, module: str, *names: str) -> None:
    """Put functions of a module into the bare package that it belongs to; a real package holds them already."""
    found = importlib.import_module(module)
    vars(package).update({name: getattr(found, name) for name in names})


def _bare(name: str) -> ModuleType:
    return stand_in(name, __path__=[str(_place("scipy").joinpath(*name.split(".")[1:]))])


def _late_arrays(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)
    return late(_ARRAYS, name)


def _place(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 - installed with cdtl
    return Path(spec.origin).parent
