"""Runs a program and measures it with all its children: wall seconds, processor seconds, peak memory.

    python -m simulations.bench.nanny OUT.json PSS_EVERY_S COMMAND ...

A process that is orphaned below this one becomes its child (Linux), so processes that detach, as Ray's do, are counted
and ended too. It ends with the program's exit code.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from simulations.bench.pss import tree_pss

__all__ = ["main"]

_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Play the command of the command line, write the figures."""
    out, every, command = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    peak = _Peak(every)
    began = time.monotonic()
    program = subprocess.Popen(command)  # noqa: S603
    try:
        if every:
            threading.Thread(target=peak.watch, args=(program.pid,), daemon=True).start()
        code = program.wait()
        wall = time.monotonic() - began
    finally:
        _end_all()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {"code": code, "wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_pss": peak.bytes}
    out.write_text(json.dumps(figures), encoding="utf-8")
    return code


class _Peak:
    """The most memory that a tree of processes had at any look."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self.bytes = every_s, 0

    def watch(self, pid: int) -> None:
        me = os.getpid()
        while psutil.pid_exists(pid):
            children = psutil.Process(me).children()
            self.bytes = max(self.bytes, sum(tree_pss(child.pid) for child in children))
            time.sleep(self._every_s)


def _end_all() -> None:
    """Kill and wait for whatever is left below this process."""
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
