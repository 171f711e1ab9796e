"""``HOME/logs/egress.jsonl``: what left the site. Nobody needs to trust us about it: every byte is in a sum.

Lines of kind ``traffic`` count all requests to the coordinator and their bytes, by path, once a minute and after each
reply: their sum is all that left (bodies; headers are fixed and hold no data). Lines of kind ``reply`` are written
BEFORE a reply leaves and say what it is; lines of kind ``refused`` say what did not leave.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdtl_core.durable import append_line

__all__ = ["EgressLog"]

MAX_BYTES = 8 * 1024 * 1024
KEPT = 4


class EgressLog:
    """Counts and lines; rotated by size, `KEPT` older files are kept."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = home / "logs" / "egress.jsonl", clock
        self._counts: dict[str, list[int]] = {}
        self._since = clock()

    def count(self, name: str, num_bytes: int) -> None:
        """One request to the coordinator."""
        counts = self._counts.setdefault(name, [0, 0])
        counts[0] += 1
        counts[1] += num_bytes

    def write(self, kind: str, **fields: Any) -> None:
        """One line, durable."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
            self._rotate()
        append_line(self._path, json.dumps({"time": round(self._clock(), 3), "kind": kind, **fields}))

    def flush(self, *, every_s: float = 0.0) -> None:
        """Write what was counted, if it is due and there is anything."""
        if self._counts and self._clock() - self._since >= every_s:
            requests = {name: {"count": n, "bytes": size} for name, (n, size) in sorted(self._counts.items())}
            self._counts.clear()
            self.write("traffic", since=round(self._since, 3), requests=requests)
            self._since = self._clock()

    def _rotate(self) -> None:
        for number in range(KEPT, 0, -1):
            older = self._path.with_name(f"egress.{number}.jsonl")
            newer = self._path.with_name(f"egress.{number - 1}.jsonl") if number > 1 else self._path
            if newer.exists():
                os.replace(newer, older)
