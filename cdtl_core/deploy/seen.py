"""Time of each site's last request that the SuperLink answered, in a file for other processes."""

import asyncio
import contextlib
import json
import threading
import time
from pathlib import Path

from cdtl_core.errors import CheckpointError
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import get_logger

__all__ = ["SeenSites", "last_seen"]

_INTERVAL_S = 2.0
_log = get_logger(__name__)


class SeenSites:
    """Site to the unix time of its last answered request, written to FOLDER/seen.json at most every two seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = last_seen(folder)
        self._news = asyncio.Event()
        self._writing = threading.Lock()

    def note(self, site: str) -> None:
        """Record that the SuperLink answered a request of the site."""
        self._seen[site] = round(time.time(), 3)
        self._news.set()

    async def keep(self) -> None:
        """Write until cancelled, and once more at the end."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await asyncio.to_thread(self._write)
                await asyncio.sleep(_INTERVAL_S)
        finally:
            if self._news.is_set():
                self._write()

    def _write(self) -> None:
        try:
            with self._writing:
                replace_json(self._folder / "seen.json", dict(self._seen))
        except CheckpointError as error:
            _log.warning("%s", error)


def last_seen(folder: Path) -> dict[str, float]:
    """Return the unix time of each site's last answered request; empty if there is none or the file is damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return {str(site): float(when) for site, when in content.items()}
    return {}
