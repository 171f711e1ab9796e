"""Logs of JSON lines in which each line carries a hash over all lines before it.

::

    {"time": ..., "kind": ..., "seq": 1, "after": "", "hash": "5f..."}
    {"time": ..., "kind": ..., "seq": 2, "hash": "c0..."}

`seq` counts the lines of the chain. `hash` is the SHA-256 of the previous hash and of the line itself. The first line
of a file names the previous hash in `after`. A head file in another folder holds number and hash of the last line, and
the number of the first line that still exists. `cdtl site log verify` and `cdtl server log verify` check all of it.

An attacker with the account that writes a log can write the whole log again. A head that was noted elsewhere shows it.
"""

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdtl_core.errors import CheckpointError
from cdtl_core.system.durable import append_bytes, locked, replace_json, sync_folder, unwritable
from cdtl_core.system.foreign import get_logger, parse_json

__all__ = ["ChainedLog", "Head", "LogFiles", "encode_line", "link", "parse_line", "read_head"]

_log = get_logger("cdtl.chained")
_TAIL = 1 << 16


def link(before: str, value: object) -> str:
    """Return the hash of `value`, in hex, chained to the hash `before`."""
    return hashlib.sha256(f"{before}{json.dumps(value, sort_keys=True)}".encode()).hexdigest()


@dataclass(frozen=True)
class Head:
    """The end of a chain: number and hash of its last line, and the number of its first line that still exists."""

    seq: int = 0
    hash: str = ""
    first: int = 1


@dataclass(frozen=True)
class LogFiles:
    """The files of one log.

    Attributes:
        path: The newest file.
        head: The head file, in another folder.
        max_bytes: The size at which a file is closed and the next one begins.
        kept: Number of older files that are kept; they carry the numbers 1 (newest) to `kept`.
    """

    path: Path
    head: Path
    max_bytes: int
    kept: int

    def older(self, number: int) -> Path:
        """Return the path of an older file by its number."""
        if self.path.suffix == ".jsonl":
            return self.path.with_name(f"{self.path.stem}.{number}.jsonl")
        return self.path.with_name(f"{self.path.name}.{number}")


class ChainedLog:
    """Appends lines to a chain; several processes may write to one log.

    Args:
        files: Its files.
        sync_s: Longest time in seconds for which a line may be missing on the disk and in the head file. 0: both are
            durable when `append` returns. Otherwise call `sync` as often as this.
    """

    def __init__(self, files: LogFiles, *, sync_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._files, self._sync_s, self._clock = files, sync_s, clock
        self._thread = threading.Lock()
        self._last = Head()
        self._left: tuple[int, int] | None = None
        self._undone: tuple[int, int] | None = None
        self._unsynced, self._synced_at = False, -math.inf  # the first line is noted at once

    def append(self, fields: Mapping[str, Any]) -> None:
        """Append one line: `fields`, its number and its hash.

        Raises:
            CheckpointError: The disk is full or read-only; the line is not in the log.
        """
        with self._thread, locked(self._files.head.parent, wait=True):
            try:
                self._append(fields)
            except OSError as error:
                raise unwritable(self._files.path, error) from None
            self._unsynced = True
            if self._clock() - self._synced_at >= self._sync_s:
                self._sync()

    def sync(self) -> None:
        """Make all lines durable and note the last one in the head file; a fault is logged and tried again."""
        with self._thread:
            if self._unsynced:
                try:
                    with locked(self._files.head.parent, wait=True):
                        self._sync()
                except CheckpointError as error:
                    _log.warning("%s", error)

    def _append(self, fields: Mapping[str, Any]) -> None:
        path = self._files.path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._take_back()
        if self._left is None or self._left != _place(path):
            self._last = self._found()
        if _size(path) > self._files.max_bytes or (_size(path) and not self._last.seq):  # written by an earlier version
            self._rotate()
        value = {**fields, "seq": self._last.seq + 1}
        if not _size(path):
            value["after"] = self._last.hash
        digest = link(self._last.hash, value)
        line, before = encode_line(value, digest), _size(path)
        self._left, self._undone = None, (before, before + len(line))
        append_bytes(path, line, sync=self._sync_s == 0)
        self._undone = None
        self._left, self._last = _place(path), replace(self._last, seq=value["seq"], hash=digest)

    def _take_back(self) -> None:
        """Remove a line that was reported as not written, after the disk had refused to remove it at once."""
        path = self._files.path
        if self._undone and self._undone[0] < _size(path) <= self._undone[1]:  # nothing was appended since
            os.truncate(path, self._undone[0])
        self._undone = None

    def _sync(self) -> None:
        """Sync the line; a head file that lags behind is a smaller fault than a message that is not sent."""
        try:
            if self._sync_s:
                with open(self._files.path, "rb") as file:
                    os.fsync(file.fileno())
            replace_json(self._files.head, vars(self._last))
            self._unsynced, self._synced_at = False, self._clock()
        except (CheckpointError, OSError) as error:
            _log.warning("the head of %s is not up to date: %s", self._files.path, error)

    def _found(self) -> Head:
        """Return the end of the chain on the disk; half a line left by a kill is removed."""
        head = read_head(self._files.head) or Head()
        newest = next((path for path in (self._files.path, self._files.older(1)) if _size(path)), None)
        if newest is None:
            return head
        if newest == self._files.path:
            _cut_torn(newest)
        last = parse_line(_last_line(newest))
        if (
            last is None or last[0]["seq"] <= head.seq
        ):  # if a log was cut, it continues after its head, so the gap stays visible
            return head
        return replace(head, seq=last[0]["seq"], hash=last[1])

    def _rotate(self) -> None:
        """Close the file and begin the next one; on a fault the log continues in the same file.

        The head file is written first. A kill in between leaves more lines than noted, never fewer.
        """
        files = self._files
        try:
            gap = next((n for n in range(1, files.kept + 1) if not files.older(n).exists()), 0)
            if not gap:
                second = files.older(files.kept - 1) if files.kept > 1 else files.path
                self._last = replace(self._last, first=_first_seq(second, self._last))
            if self._last.seq:
                replace_json(files.head, vars(self._last))
            for number in range(gap or files.kept, 0, -1):
                os.replace(files.older(number - 1) if number > 1 else files.path, files.older(number))
            sync_folder(files.path.parent)
        except (CheckpointError, OSError) as error:
            _log.warning("%s cannot be rotated and continues to grow: %s", files.path, error)


def encode_line(value: Mapping[str, Any], digest: str) -> bytes:
    """Return the bytes of a line."""
    return (json.dumps({**value, "hash": digest}) + "\n").encode()


def parse_line(line: bytes) -> tuple[dict[str, Any], str] | None:
    """Return the value and the hash of a line; None if the bytes are not exactly a line of a chain."""
    try:
        value = parse_json(line)
        digest, number = value.pop("hash"), value["seq"]
        whole = isinstance(digest, str) and type(number) is int and encode_line(value, digest) == line
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return (value, digest) if whole else None


def read_head(path: Path) -> Head | None:
    """Return the noted head; None if the file is missing or damaged."""
    try:
        value = parse_json(path.read_bytes())
        return Head(int(value["seq"]), str(value["hash"]), int(value["first"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _first_seq(path: Path, last: Head) -> int:
    """Return the number of a file's first line; if that line is damaged, the number noted before."""
    with open(path, "rb") as file:
        first = parse_line(file.readline())
    return first[0]["seq"] if first else last.first


def _place(path: Path) -> tuple[int, int]:
    found = path.stat() if path.exists() else None
    return (found.st_ino, found.st_size) if found else (0, 0)


def _size(path: Path) -> int:
    return _place(path)[1]


def _last_line(path: Path) -> bytes:
    """Return the last whole line of a file."""
    with open(path, "rb") as file:
        span = _TAIL
        while True:
            file.seek(max(path.stat().st_size - span, 0))
            tail = file.read()
            lines = tail.splitlines(keepends=True)
            if len(lines) > 1 or len(tail) < span:
                return lines[-1] if lines else b""
            span *= 8


def _cut_torn(path: Path) -> None:
    size = path.stat().st_size
    torn = _last_line(path)
    if torn and not torn.endswith(b"\n"):
        os.truncate(path, size - len(torn))
