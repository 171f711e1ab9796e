"""``HOME/gate.json``: the filter's state, for ``cdtl site status`` and for the next start."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdtl_core.system.durable import replace_json

__all__ = ["Status", "read_status"]

STATUS_FILE = "gate.json"
_MIN_INTERVAL_S = 2.0


class Status:
    """The filter's state. Times are seconds since 1970; the file is written at most every two seconds."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = home / STATUS_FILE, clock
        before = read_status(home)
        self._facts: dict[str, Any] = {
            "pid": os.getpid(),
            "started": clock(),
            "connected": False,
            "last_contact": None,
            "last_fault": None,
            "last_refusal": None,
            "pending": [],
            "node_id": before.get("node_id"),
        }
        self._written = 0.0
        self._dirty = True

    @property
    def node_id(self) -> str | None:
        """Id of the SuperNode whose session is open at the coordinator, from this filter or an earlier one."""
        node_id: str | None = self._facts["node_id"]
        return node_id

    def note(self, **facts: Any) -> None:
        """Change some facts."""
        if any(self._facts.get(key) != value for key, value in facts.items()):
            self._facts |= facts
            self._dirty = True

    def contact(self, status: int) -> None:
        """Record an HTTP status of the coordinator's gateway; only 200 comes from the SuperLink behind it.

        Statuses 400 to 413 except 401 concern a single request, so they do not change the state of the connection.
        """
        now = round(self._clock(), 1)
        if status == 200:
            self.note(connected=True, last_contact=now)
        elif status >= 500:
            self.lost(f"the coordinator's gateway answers {status}: its SuperLink does not answer, or it asks to wait")
        elif status == 401:
            why = "401: the coordinator does not know this site's key, or the clocks differ by more than 5 s"
            self.note(connected=False, last_refusal={"time": now, "why": why})

    def lost(self, why: str) -> None:
        """Record that the coordinator could not be reached."""
        self.note(connected=False, last_fault={"time": round(self._clock(), 1), "why": why})

    def write(self, *, force: bool = False) -> None:
        """Write the file if anything changed and it is due."""
        if force or (self._dirty and self._clock() - self._written >= _MIN_INTERVAL_S):
            replace_json(self._path, self._facts)
            self._written, self._dirty = self._clock(), False


def read_status(home: Path) -> dict[str, Any]:
    """Return the state that the last filter wrote; empty if there is none."""
    try:
        content = json.loads((home / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
