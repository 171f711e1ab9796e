"""A disk that fails at a chosen call: every write, fsync, rename, mkdir and unlink of cdtl's own code.

The functions of Python that change files are replaced in this process by ones that count, and fail on demand. A call
belongs to the frames of cdtl on its stack: `Call.place` names the innermost one, `Call.path` two. Calls that no
frame of cdtl is part of pass untouched. A write that fails has written half of its bytes before, as a full disk does.
What libraries write in C (SQLite of Flower, memory-mapped arrays) is out of reach here; their room is taken by a call
of ours before.
"""

import builtins
import errno
import io
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from _pytest.assertion import rewrite

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / part}{os.sep}" for part in ("cdtl_core", "client", "server"))
TESTS = f"{ROOT / 'tests'}{os.sep}"
ENOSPC, EIO = errno.ENOSPC, errno.EIO
_REWRITER = rewrite.__file__
_DEPTH = 2
_FREES = {"unlink", "rmdir", "truncate"}
"""Calls that a full disk does not refuse, once the chosen call has failed."""


@dataclass(frozen=True)
class Call:
    """One kind of call: what it does and from where."""

    what: str
    path: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.path[0]} {self.what}"

    def __str__(self) -> str:
        return f"{self.what} at {' < '.join(self.path)}"


@dataclass
class Disk:
    """Counts calls; from occurrence `nth` of `chosen` on it fails.

    Attributes:
        chosen: None: nothing fails.
        nth: 1 is the first.
        error: An errno.
        lasting: Fail from then on until `free` is called, and not once only.
    """

    chosen: Call | None = None
    nth: int = 1
    error: int = ENOSPC
    lasting: bool = False
    seen: Counter[Call] = field(default_factory=Counter)
    failed: int = 0
    _failing: bool = False

    def free(self) -> None:
        """There is room again, once there was none."""
        self._failing = False
        if self.failed:
            self.chosen = None

    def asks(self, what: str) -> bool:
        """Count a call; True if it must fail."""
        path = _path(sys._getframe(2))
        if not path:
            return False
        call = Call(what, path)
        self.seen[call] += 1
        hit = call == self.chosen and self.seen[call] == self.nth
        self._failing |= hit and self.lasting
        fails = hit or (self._failing and not (self.error == ENOSPC and what in _FREES))
        self.failed += fails
        return fails

    def fault(self, name: object = None) -> OSError:
        return OSError(self.error, os.strerror(self.error), name if isinstance(name, str) else str(name))

    def install(self) -> None:
        """Replace the functions of this process for good."""
        for module, name, new in _Functions(self).all():
            setattr(module, name, new)

    @contextmanager
    def installed(self) -> Iterator["Disk"]:
        """Replace the functions of this process, all threads included."""
        places = _Functions(self).all()
        before = [(module, name, getattr(module, name)) for module, name, _ in places]
        for module, name, new in places:
            setattr(module, name, new)
        try:
            yield self
        finally:
            for module, name, old in before:
                setattr(module, name, old)


def _path(frame: FrameType | None) -> tuple[str, ...]:
    found: list[str] = []
    while frame is not None and len(found) < _DEPTH:
        name = frame.f_code.co_filename
        if name.startswith(TESTS) and name != __file__:
            break  # what the rig writes is none of the run's
        if name == _REWRITER:
            return ()  # bytecode that pytest keeps when the run first imports a module called test_*
        if name.startswith(OURS):
            found.append(f"{name[len(str(ROOT)) + 1 :]}:{frame.f_lineno}")
        frame = frame.f_back
    return tuple(found)


@dataclass(frozen=True)
class _Functions:
    """Stand-ins for the functions that change files."""

    disk: Disk

    def all(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        plain = [
            "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "truncate", "link", "symlink", "utime",
            "posix_fallocate", "chmod",
        ]  # fmt: skip
        return [
            *((os, name, self.failing(name, getattr(os, name))) for name in plain),
            (os, "fsync", self.failing("fsync", lambda _: None)),  # no power is cut here
            (os, "open", partial(self.os_open, os.open)),
            (os, "write", partial(self.os_write, os.write)),
            (io, "open", partial(self.open, io.open)),
            (builtins, "open", partial(self.open, io.open)),
            (tempfile, "TemporaryFile", self.failing("open", tempfile.TemporaryFile)),
            (np.lib.format, "isfileobj", lambda _: False),  # or NumPy would write in C
        ]

    def failing(self, what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.disk.asks("unlink" if what == "remove" else what):
                raise self.disk.fault(args[0] if args else "a file")
            return real(*args, **options)

        return call

    def os_open(self, real: Callable[..., int], path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self.disk.asks("open"):
            raise self.disk.fault(path)
        return real(path, flags, *args, **options)

    def os_write(self, real: Callable[..., int], handle: int, content: bytes) -> int:
        if self.disk.asks("write"):
            real(handle, content[: len(content) // 2])
            raise self.disk.fault("a file")
        return real(handle, content)

    def open(
        self, real: Callable[..., Any], file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        if not set(mode) & set("wax+") or not _path(sys._getframe(1)):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int) and self.disk.asks("open"):
            raise self.disk.fault(os.fspath(file))
        raw = _Raw(file, "".join(sorted(set(mode) & set("rwax+"))), closefd, opener)
        raw.disk = self.disk
        if buffering == 0:
            return raw
        binary = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        if "b" in mode:
            return binary
        return io.TextIOWrapper(binary, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)


class _Raw(io.FileIO):
    disk: Disk

    def write(self, content: Any) -> int:
        if self.disk.asks("write"):
            super().write(bytes(content)[: len(content) // 2])
            raise self.disk.fault(self.name)
        return super().write(content)

    def truncate(self, size: int | None = None) -> int:
        if self.disk.asks("truncate"):
            raise self.disk.fault(self.name)
        return super().truncate(size)
