"""Thread settings for OpenMP, to be made before torch is first imported in a process.

With OpenMP's default wait policy a busy neighbour on the same cores made one training round 53 times slower:
waiting threads spin instead of yielding. A value that the user has set is never overwritten.
"""

import os

__all__ = ["num_cores", "set_thread_defaults"]


def set_thread_defaults() -> None:
    """Let waiting OpenMP threads sleep and use the cores this process may use; a user's own setting wins."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
