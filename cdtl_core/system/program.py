"""Settings of a process that make it faster: threads, garbage collection, memory.

With OpenMP's default wait policy a busy neighbour on the same cores made one training round 53 times slower, because
waiting threads spin instead of yielding. Settings of threads take effect only before torch is first imported in a
process. A value that the user has set is never overwritten.
"""

import contextlib
import ctypes
import gc
import os

__all__ = ["num_cores", "set_program_defaults", "set_thread_defaults"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = 1 << 30
"""Bytes of free memory that a program keeps for its next tensors."""


def set_thread_defaults() -> None:
    """Let waiting OpenMP threads sleep and set the number of threads; a user's own setting takes precedence."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))


def set_program_defaults() -> None:
    """Set what only a program of cdtl may set, since it holds for all that its process does; threads as well.

    Python looks for garbage after 50,000 new objects instead of 700: importing torch makes half a million, and none of
    them is garbage. glibc keeps freed memory instead of returning it to the system: a tensor in new memory costs six
    times as much as one in memory that was used before, since the system first clears every page.
    """
    set_thread_defaults()
    gc.set_threshold(50_000, 5, 5)
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library: its own settings stay
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
