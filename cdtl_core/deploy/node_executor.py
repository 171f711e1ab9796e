"""Flower's executor, with a prepared process: approved code starts in a fork that has loaded torch already.

``python node_executor.py ARGUMENTS`` takes the arguments of ``flower-superexec`` and is that program, except for how it
starts the process of a message: not by a new interpreter, which spends seconds on importing torch, but by a fork of a
process that has done nothing else. That process imports third-party libraries only, never a bundle, so nothing of a
message or of a bundle passes to the next message: what a fork changes, it changes in its own copy of the memory. The
file is run by its path, like ``node_main.py``, and needs nothing else of cdtl.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from types import SimpleNamespace

LIBRARIES = (
    *("torch", "torchvision", "timm", "scipy.special"),
    *("flwr.supernode.cli", "PIL.PngImagePlugin", "pydantic", "psutil"),
)
"""What the code of a run imports from the site's own environment."""
_PR_SET_DUMPABLE = 4
_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = 1, -1, -4, -8
_MOST_BYTES = 1 << 16
_PART_S = 0.05


def main() -> None:
    """Fork the prepared process, then run Flower's executor; in a fork of the prepared process, run its command."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        there.close()
        _launch_through(here)
        command = ["flower-superexec", *sys.argv[1:]]
    else:
        here.close()
        command = _await_command(there)
    sys.argv = command
    _program(command[0])()


def _launch_through(control: socket.socket) -> None:
    """Have Flower's subprocess executor send its command lines to the prepared process."""
    from flwr.supercore.superexec.executor import subprocess_executor

    def start(command: list[str], **streams: object) -> None:
        control.send(json.dumps({"command": command, "silent": bool(streams)}).encode())

    subprocess_executor.subprocess = SimpleNamespace(Popen=start, DEVNULL=None)  # type: ignore[attr-defined,assignment]


def _await_command(control: socket.socket) -> list[str]:
    """Fork for each command that arrives and return it in the fork; end with Flower's executor.

    Other processes of the same account cannot read or write this one's memory: it is not dumpable.
    """
    _set_dumpable(False)
    from flwr.supercore import constant

    constant.PULL_INITIAL_BACKOFF = _PART_S  # type: ignore[assignment]  # a second: longer than a message is on its way
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # as it ends, a fork does not look through these objects for garbage: a second of each message
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for a fork; Flower counts its heartbeats
    while packet := control.recv(_MOST_BYTES):
        if os.fork() == 0:
            control.close()
            return _own(**json.loads(packet))
    sys.exit(0)


def _own(command: list[str], silent: bool) -> list[str]:
    """Make a fork what a new process would be: signals, random numbers and output of its own; return its command."""
    import numpy as np

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _set_dumpable(True)
    _keep_freed_memory()
    np.random.seed()  # Python's own generator does this by itself, numpy's does not
    if silent:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    return command


def _set_dumpable(value: bool) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, int(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _keep_freed_memory() -> None:
    """Do what the function of this name in `cdtl_core.system.program` does and explains, for one message."""
    if "GLIBC_TUNABLES" not in os.environ and not any(name.startswith("MALLOC_") for name in os.environ):
        with contextlib.suppress(OSError, AttributeError, TypeError):
            settings = ((_M_MXFAST, 0), (_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1))
            for setting, value in settings:
                ctypes.CDLL(None).mallopt(setting, value)


def _program(name: str) -> Callable[[], object]:
    (script,) = entry_points(group="console_scripts", name=name)
    program: Callable[[], object] = script.load()
    return program


if __name__ == "__main__":
    main()
