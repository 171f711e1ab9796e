"""How long the filter keeps the SuperNode's question open before it answers that there is no message.

After such an answer a SuperNode sleeps for 3 s, which would be a fixed part of each round. While a run is under way the
filter therefore keeps the question open and asks the coordinator itself: four times a second at first, then at
intervals of a fortieth of the silence. After two minutes of silence the SuperNode's own interval is as good, and the
filter answers at once.
"""

import time
from collections.abc import Callable

__all__ = ["Patience"]

_SHORTEST_S, _LONGEST_S = 0.25, 3.0
_SHARE = 1 / 40


class Patience:
    """Pauses between two looks.

    Args:
        hold_s: The longest that a question is kept open; 0 answers every question at once.
        clock: In seconds.
    """

    def __init__(self, hold_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._hold_s, self._clock, self._stirred = hold_s, clock, clock()

    def stir(self) -> None:
        """Record activity: more messages are likely soon."""
        self._stirred = self._clock()

    def pause(self, asked_at: float) -> float | None:
        """Seconds until the next look for a question of `asked_at`; None: answer it now."""
        now = self._clock()
        pause = max(_SHORTEST_S, (now - self._stirred) * _SHARE)
        return pause if pause < _LONGEST_S and now + pause - asked_at <= self._hold_s else None

    def now(self) -> float:
        """The time, for `pause`."""
        return self._clock()
