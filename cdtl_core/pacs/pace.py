"""How fast studies are fetched: a time of day, studies and megabytes per minute, and an end that can be asked for."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Pace", "Stopped", "Window"]

_TIMES = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY = 24 * 60


class Stopped(Exception):  # noqa: N818 (no fault: a person asked for it)
    """The person at the terminal asked for the end."""


@dataclass(frozen=True)
class Window:
    """A time of day, in minutes from midnight; it may cross midnight."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Return the window in a text such as ``20:00-06:00``.

        Raises:
            ValueError: It is none.
        """
        found = _TIMES.fullmatch(text)
        if found is None:
            raise ValueError("window must be like 20:00-06:00")
        hours = [int(part) for part in found.groups()]
        window = cls(hours[0] * 60 + hours[1], hours[2] * 60 + hours[3])
        if window.start == window.end:
            raise ValueError("window must not begin when it ends: leave it out for any time")
        return window

    def opens_in(self, now: datetime) -> timedelta:
        """Return the time until the window opens; zero while it is open."""
        minute = now.hour * 60 + now.minute
        if (minute - self.start) % _DAY < (self.end - self.start) % _DAY:
            return timedelta()
        whole = timedelta(minutes=(self.start - minute) % _DAY)
        return whole - timedelta(seconds=now.second, microseconds=now.microsecond)


class Pace:
    """Decides when the next study may begin; used by several threads.

    Args:
        window: Time of day, as in `Window.parse`; None: any.
        studies_per_minute: Most studies; None: any number.
        mb_per_minute: Most megabytes, on average; None: any number.
        tell: Gets a sentence when the window is closed.
        now: The time of day.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        *,
        window: str | None = None,
        studies_per_minute: float | None = None,
        mb_per_minute: float | None = None,
        tell: Callable[[str], None] = lambda _: None,
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = Window.parse(window) if window else None
        self._of_study = 60 / studies_per_minute if studies_per_minute else 0.0
        self._of_byte = 60 / (mb_per_minute * 1e6) if mb_per_minute else 0.0
        self._tell, self._now, self._clock = tell, now, clock
        self._lock, self._end = threading.Lock(), threading.Event()
        self._free_at, self._is_told = 0.0, False

    def stop(self) -> None:
        """End all waiting: what waits raises `Stopped`."""
        self._end.set()

    def sleep(self, seconds: float) -> None:
        """Wait; `Stopped` if the end was asked for."""
        if self._end.wait(max(seconds, 0.0)):
            raise Stopped

    def begin(self) -> None:
        """Wait until a study may begin.

        Raises:
            Stopped: The end was asked for.
        """
        self.wait_for_window()
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + self._of_study
        self.sleep(start - now)

    def count(self, size: int) -> None:
        """Note bytes that arrived: the next study begins later."""
        with self._lock:
            self._free_at = max(self._clock(), self._free_at) + size * self._of_byte

    def wait_for_window(self) -> None:
        """Wait until the time of day is in the window.

        Raises:
            Stopped: The end was asked for.
        """
        while self._window and (left := self._window.opens_in(self._now())):
            with self._lock:
                if not self._is_told:
                    opens = self._now() + left
                    self._tell(f"Outside the time window: waiting until {opens:%H:%M} ({_words(left)}).")
                self._is_told = True
            self.sleep(min(left.total_seconds(), 60.0))
        self._is_told = False
        self.sleep(0)


def _words(left: timedelta) -> str:
    minutes = max(1, round(left.total_seconds() / 60))
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
