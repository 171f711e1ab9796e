"""Thread settings for OpenMP; they take effect only before torch is first imported in a process.

With OpenMP's default wait policy a busy neighbour on the same cores made one training round 53 times slower, because
waiting threads spin instead of yielding. A value that the user has set is never overwritten.
"""

import os

__all__ = ["num_cores", "set_thread_defaults"]


def set_thread_defaults() -> None:
    """Let waiting OpenMP threads sleep and set the number of threads; a user's own setting takes precedence."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
