"""``HOME/logs/egress.jsonl``: the chained log of everything that left the site. Every byte is counted.

Lines of kind ``traffic`` count all requests to the coordinator and their bytes, by path, once a minute and after each
reply. Their sum is all that left (bodies; headers are fixed and hold no data). Lines of kind ``reply`` are written
BEFORE a reply leaves and describe it. Lines of kind ``refused`` describe what did not leave.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdtl_core.deploy.records import egress_files
from cdtl_core.errors import CheckpointError
from cdtl_core.system.chained import ChainedLog
from cdtl_core.system.foreign import get_logger

__all__ = ["EgressLog"]

_MOST_LATE = 1000
_log = get_logger("cdtl.filter")


class EgressLog:
    """Counts and lines of a chained log; each line is on the disk when its call returns.

    Args:
        home: The site's folder.
        clock: Seconds since 1970.
        max_bytes: The size at which a file is closed; None: the usual one.
    """

    def __init__(self, home: Path, clock: Callable[[], float] = time.time, *, max_bytes: int | None = None) -> None:
        files = egress_files(home)
        self._lines = ChainedLog(replace(files, max_bytes=max_bytes) if max_bytes else files)
        self._clock = clock
        self._counts: dict[str, list[int]] = {}
        self._late: deque[dict[str, Any]] = deque(maxlen=_MOST_LATE)
        self._since = clock()

    def count(self, name: str, num_bytes: int) -> None:
        """Count one request to the coordinator."""
        counts = self._counts.setdefault(name, [0, 0])
        counts[0] += 1
        counts[1] += num_bytes

    def write(self, kind: str, **fields: Any) -> None:
        """Write one line durably.

        Raises:
            CheckpointError: The disk is full or read-only; the line is not in the log.
        """
        self._lines.append(self._line(kind, fields))

    def note(self, kind: str, **fields: Any) -> None:
        """Write one line about a past event; on a disk fault it waits for a later flush."""
        self._late.append(self._line(kind, fields))
        try:
            self._write_late()
        except CheckpointError as error:
            _log.error("lines of the egress log wait for the disk (%d): %s", len(self._late), error)

    def flush(self, *, every_s: float = 0.0) -> None:
        """Write waiting lines, and the counts if they are due.

        Raises:
            CheckpointError: The disk is full or read-only; nothing is forgotten.
        """
        self._write_late()
        if self._counts and self._clock() - self._since >= every_s:
            requests = {name: {"count": n, "bytes": size} for name, (n, size) in sorted(self._counts.items())}
            self.write("traffic", since=round(self._since, 3), requests=requests)
            self._counts.clear()
            self._since = self._clock()

    def _line(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        return {"time": round(self._clock(), 3), "kind": kind, **fields}

    def _write_late(self) -> None:
        while self._late:
            self._lines.append(self._late[0])
            self._late.popleft()
