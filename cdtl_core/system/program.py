"""Settings of a process that make it faster: threads, garbage collection, memory.

With OpenMP's default wait policy a busy neighbour on the same cores made one training round 53 times slower, because
waiting threads spin instead of yielding. Settings of threads take effect only before torch is first imported in a
process. A value that the user has set is never overwritten.
"""

import atexit
import contextlib
import ctypes
import gc
import os
import sys
import threading
from typing import NoReturn

__all__ = ["end_program", "give_back_memory", "keep_freed_memory", "num_cores", "set_program_defaults"]
__all__ += ["set_thread_defaults"]

_MXFAST, _TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = 1, -1, -4, -8  # malloc.h
_NEVER = -1
_WHILE_LOADING, _LATER, _OLDER = 700_000, 200_000, (10, 10)  # new objects; searches of the younger generation
_MOST_FREE = 1 << 29
"""Bytes of free memory that a process may keep between two rounds."""


def set_thread_defaults() -> None:
    """Let waiting OpenMP threads sleep and set the number of threads; a user's own setting takes precedence."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))


def set_program_defaults() -> None:
    """Set what only a program of cdtl may set, since it holds for all that its process does; threads as well.

    torch and pydantic look for extensions of theirs among all installed packages, to run them. Here they do not: cdtl
    uses none, and each search takes a hundredth of a second.

    Python looks for garbage after 700 new objects. Here it first looks after 700,000, since importing torch makes half
    a million and none of them is garbage; after that, once for each 200,000, and seldom among older ones.
    """
    set_thread_defaults()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    gc.set_threshold(_WHILE_LOADING, *_OLDER)
    if _loaded not in gc.callbacks:
        gc.callbacks.append(_loaded)


def _loaded(phase: str, _: object) -> None:
    """Let Python look for garbage more often from its first search on."""
    if phase == "stop":
        gc.callbacks.remove(_loaded)
        gc.set_threshold(_LATER, *_OLDER)


def end_program(code: int) -> NoReturn:
    """End this process: wait for threads, run what is registered for the end, write stdout and stderr.

    Python would then take apart all that is loaded, with torch for a fifth of a second. Here that is left to the
    system, so a file that is still open for writing, or a generator that waits, is not ended. Under a profiler, or a
    tracer such as coverage, the process ends as any other: these write their results at that time.
    """
    if _is_traced():
        sys.exit(code)
    with contextlib.suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]  # multiprocessing ends its processes by these two calls
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python says what could not be written
    os._exit(code)


def _is_traced() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    tools = monitoring is not None and any(monitoring.get_tool(number) for number in range(6))
    return bool(sys.getprofile() or sys.gettrace() or tools)


def keep_freed_memory() -> None:
    """Let this process use memory again that it has freed; only glibc can do this.

    Processes that train call it: that of `cdtl simulate`, and at a site that of each message, by a copy of this
    function (`deploy/node_executor.py`). Without it each tensor of a training step comes in new memory, which the
    system clears page by page: an eighth of the processors' time. Free neighbours are joined at once, since the next
    tensor, which is aligned, would not fit between them. All threads take from one heap.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for setting, value in ((_MXFAST, 0), (_TRIM_THRESHOLD, _NEVER), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            mallopt(setting, value)


def give_back_memory() -> None:
    """Give free memory back to the system if it is more than 512 MB, for a program that keeps it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        if hasattr(library, "mallinfo2"):  # since glibc 2.33
            library.mallinfo2.restype = _Mallinfo
            if library.mallinfo2().fordblks <= _MOST_FREE:
                return
        library.malloc_trim(0)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = (
        ("before", ctypes.c_size_t * 8),
        ("fordblks", ctypes.c_size_t),  # bytes that are free
        ("keepcost", ctypes.c_size_t),
    )
