"""Rate limit per client: a generic cell rate algorithm with one number per client."""

import math
import time
from collections.abc import Callable

__all__ = ["RateLimit"]


class RateLimit:
    """A number of requests per minute for each key, evenly spaced, after a first burst of a third of them.

    Memory is one number for each key of the last minute. The `limits` package is not used: it depends on the wall
    clock, which hospitals set, expires keys by its own timer, and brings three dependencies.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 60.0 / per_minute
        self._slack = self._interval * max(1, per_minute // 3)
        self._clock = clock
        self._due: dict[str, float] = {}
        self._sweep_at = clock()

    def wait(self, key: str) -> int:
        """Count a request: 0 if it may pass, else the seconds to wait before the next try (it is not counted then)."""
        now = self._clock()
        self._sweep(now)
        due = max(self._due.get(key, now), now) + self._interval
        if due - now > self._slack:
            return math.ceil(due - now - self._slack)
        self._due[key] = due
        return 0

    def _sweep(self, now: float) -> None:
        if now >= self._sweep_at:
            self._due = {key: due for key, due in self._due.items() if due > now}
            self._sweep_at = now + 60.0
