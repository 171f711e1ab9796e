"""Runs a program and measures it with all its children: wall seconds, processor seconds, peak memory.

    python -m simulations.bench.nanny OUT.json PSS_EVERY_S COMMAND ...

A process that is orphaned below this one becomes its child (Linux), so processes that detach, as Ray's do, are counted
and ended too. The kernel counts a process when its parent waits for it. Ray's node does not wait for its workers, so
the processor time of each process is read every second, too; the larger of the two sums is taken. It ends with the
program's exit code.
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
_CPU_EVERY_S = 1.0


def main() -> int:
    """Play the command of the command line, write the figures."""
    out, every, command = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    watch = _Watch(every)
    began = time.monotonic()
    program = subprocess.Popen(command)  # noqa: S603
    try:
        threading.Thread(target=watch.follow, args=(program.pid,), daemon=True).start()
        code = program.wait()
        wall = time.monotonic() - began
        watch.read_processors()
    finally:
        _end_all()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = max(used.ru_utime + used.ru_stime, watch.cpu_s)
    figures = {"code": code, "wall_s": wall, "cpu_s": cpu, "peak_pss": watch.peak_bytes}
    out.write_text(json.dumps(figures), encoding="utf-8")
    return code


class _Watch:
    """The most memory that a tree of processes had at any look, and the processor time of each of its processes.

    Args:
        memory_every_s: Seconds between two looks at memory; 0: none.
    """

    def __init__(self, memory_every_s: float) -> None:
        self._memory_every_s, self.peak_bytes = memory_every_s, 0
        self._cpu_s: dict[tuple[int, float], float] = {}

    @property
    def cpu_s(self) -> float:
        """Seconds of all processes that were seen, without the last second of those that ended."""
        return sum(self._cpu_s.values())

    def follow(self, pid: int) -> None:
        """Look at the processes below this one until the program has ended."""
        read_at = 0.0
        while psutil.pid_exists(pid):
            if self._memory_every_s:
                children = psutil.Process().children()
                self.peak_bytes = max(self.peak_bytes, sum(tree_pss(child.pid) for child in children))
            if time.monotonic() - read_at >= _CPU_EVERY_S:
                self.read_processors()
                read_at = time.monotonic()
            time.sleep(self._memory_every_s or _CPU_EVERY_S)

    def read_processors(self) -> None:
        """Note the processor time of each process below this one."""
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._cpu_s[process.pid, process.create_time()] = times.user + times.system


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
