"""A part of a service: programs that start, end and restart together."""

import time
from collections.abc import Callable

from cdtl_core.errors import CdtlError
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.processes import ProcessGroup

__all__ = ["Unit"]

_log = get_logger("cdtl.deploy")
_LONGEST_S = 60.0
_LOOK_EVERY_S = 5.0
_MOST_SILENT = 3


class Unit:
    """Keeps a `ProcessGroup` running: when one of its programs ends, all are killed and restarted after a pause.

    They are also restarted if they run but do not answer three times in a row.

    Args:
        name: For the log.
        start: Starts the programs and returns once they answer.
        pause_s: Seconds before a restart; doubled each time that they ended within a minute.
        answers: Whether the programs work; called every `look_s` seconds. None: no check.
        look_s: Seconds between two checks.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], ProcessGroup],
        *,
        pause_s: float,
        answers: Callable[[], bool] | None = None,
        look_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._name, self._start, self._shortest_s = name, start, pause_s
        self._answers, self._look_s, self._look_at, self._silent = answers, look_s, 0.0, 0
        self._pause_s, self._next, self._began = pause_s, 0.0, 0.0
        self._group: ProcessGroup | None = None
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why the programs do not run, a sentence; empty if they run or were not started yet."""
        return self._trouble

    @property
    def pids(self) -> dict[str, int]:
        """Process numbers of the running programs."""
        return self._group.pids() if self._group else {}

    def keep(self) -> bool:
        """Start, check or restart the programs; True if they have just been started."""
        if self._group is not None and (why := self._fault(self._group)):
            self._group.kill()
            self._group = None
            self._wait_longer()
            self._trouble = f"{why}; starting again in {self._pause_s:.0f} s"
            _log.warning("%s: %s", self._name, self._trouble)
        if self._group is not None or time.monotonic() < self._next:
            return False
        self._began = time.monotonic()
        try:
            self._group = self._start()
        except CdtlError as error:
            self._wait_longer()
            self._trouble = f"{error} Trying again in {self._pause_s:.0f} s."
            _log.warning("%s: %s", self._name, self._trouble)
            return False
        self._trouble = ""
        self._silent, self._look_at = 0, time.monotonic() + self._look_s
        return True

    def restart(self, why: str) -> None:
        """End the programs; `keep` restarts them after a pause."""
        self.stop()
        self._wait_longer()
        self._trouble = f"{why}; starting again in {self._pause_s:.0f} s"
        _log.warning("%s: %s", self._name, self._trouble)

    def stop(self) -> None:
        """End the programs."""
        if self._group is not None:
            self._group.stop()
            self._group = None

    def _fault(self, group: ProcessGroup) -> str:
        """Return why the programs must be restarted; empty if they work."""
        if ended := group.ended():
            return ", ".join(f"{name} ended with {code}" for name, code in ended.items())
        if self._answers is None or time.monotonic() < self._look_at:
            return ""
        self._silent = 0 if self._answers() else self._silent + 1
        self._look_at = time.monotonic() + self._look_s
        return f"it did not answer {self._silent} times" if self._silent >= _MOST_SILENT else ""

    def _wait_longer(self) -> None:
        lived = time.monotonic() - self._began
        self._pause_s = self._shortest_s if lived > _LONGEST_S else min(self._pause_s * 2, _LONGEST_S)
        self._next = time.monotonic() + self._pause_s
