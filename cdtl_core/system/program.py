"""Settings of a process that make it faster: threads and garbage collection.

With OpenMP's default wait policy a busy neighbour on the same cores made one training round 53 times slower, because
waiting threads spin instead of yielding. Settings of threads take effect only before torch is first imported in a
process. A value that the user has set is never overwritten.
"""

import gc
import os

__all__ = ["num_cores", "set_program_defaults", "set_thread_defaults"]


def set_thread_defaults() -> None:
    """Let waiting OpenMP threads sleep and set the number of threads; a user's own setting takes precedence."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))


def set_program_defaults() -> None:
    """Set what only a program of cdtl may set, since it holds for all that its process does; threads as well.

    Python looks for garbage after 50,000 new objects instead of 700: importing torch makes half a million, and none of
    them is garbage.
    """
    set_thread_defaults()
    gc.set_threshold(50_000, 5, 5)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
