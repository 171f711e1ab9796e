"""Copy the output of a running program into a log that is rotated by size.

`processes.py` starts it as a script: ``python -I -S rotating.py LOG``, with the program's pipe as its input. It imports
only the standard library, so it starts fast and stays small. It ends when no program holds the other end of the pipe,
and ignores signals: the last output of a program is always in the log.

The pipe is read even if the disk fails, so no program waits for its log or fails because of it. Lost bytes are counted,
and a line in the log says so once there is space again.
"""

import contextlib
import itertools
import os
import signal
import sys
from pathlib import Path

__all__ = ["KEPT", "MAX_BYTES", "RotatingLog", "copy_input"]

MAX_BYTES, KEPT = 10_000_000, 3
"""Largest size of a file; with the older files `LOG.1` (newest) to `LOG.3` a log takes at most 40 MB."""
_CHUNK = 1 << 16


class RotatingLog:
    """A file that is appended to until it holds `max_bytes`, then renamed to an older one."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> None:
        self._path, self._max_bytes, self._kept = path, max_bytes, kept
        self._lost = 0
        self._mid_line = False

    def write(self, content: bytes) -> None:
        """Append; a disk fault is remembered and not raised."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size and size + len(content) > self._max_bytes:
            end = content.find(b"\n") + 1 if self._mid_line else 0  # end of the line that was begun
            if end or not self._mid_line or size > 2 * self._max_bytes:
                self._append(content[:end])
                self._rotate()
                content = content[end:]
        self._append(content)

    def close(self) -> None:
        """Close the file; reports lost bytes once more."""
        if self._lost:
            self._append(b"")

    def _append(self, content: bytes) -> None:
        left = memoryview(content)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab", buffering=0) as file:
                note = memoryview(f"\n[{self._lost} bytes are missing here: the disk could not be written]\n".encode())
                while self._lost and note:
                    note = note[file.write(note) :]
                self._lost = 0
                while left:
                    left = left[file.write(left) :]
        except OSError:
            self._lost += len(left)
        self._mid_line = not content.endswith(b"\n") if content else self._mid_line

    def _rotate(self) -> None:
        """Rotate the files; if they cannot be renamed, the log continues in the same file."""
        files = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._kept + 1))]
        with contextlib.suppress(OSError):
            for newer, older in reversed(list(itertools.pairwise(files))):
                if newer.exists():
                    newer.replace(older)


def copy_input(log: RotatingLog, source: int = 0) -> None:
    """Copy everything from the file descriptor `source` until it ends."""
    while chunk := os.read(source, _CHUNK):
        log.write(chunk)
    log.close()


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    copy_input(RotatingLog(Path(sys.argv[1])))
