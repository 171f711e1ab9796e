"""How many connections may be open at a time, and which one ends when one more comes."""

from collections.abc import Callable

__all__ = ["Lane"]


class Lane:
    """Open connections by holder (an address, or a site); a full lane lets the new one in and ends an old one.

    Ending an old one keeps the door open for those who come briefly, for example a health probe: to refuse the new one
    would let whoever came first keep all places.

    Args:
        most: Connections of all holders together.
        most_of_one: Connections of one holder.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._open: dict[str, dict[object, Callable[[], None]]] = {}

    def enter(self, holder: str, who: object, end: Callable[[], None]) -> str | None:
        """Count a connection; returns the holder of the one that had to end for it, if one had to.

        Args:
            holder: Whose connection it is.
            who: The connection.
            end: Closes it; called at most once, when another one takes its place.
        """
        loser = self._loser(holder)
        if loser is not None:
            oldest = next(iter(self._open[loser]))
            close = self._open[loser][oldest]
            self.leave(loser, oldest)
            close()
        self._open.setdefault(holder, {})[who] = end
        return loser

    def leave(self, holder: str, who: object) -> None:
        """The connection is over; it may have left already."""
        of_holder = self._open.get(holder, {})
        of_holder.pop(who, None)
        if not of_holder:
            self._open.pop(holder, None)

    def holds(self, holder: str) -> bool:
        """Whether the holder has a connection open."""
        return holder in self._open

    def __len__(self) -> int:
        """Connections that are open."""
        return sum(map(len, self._open.values()))

    def _loser(self, holder: str) -> str | None:
        if len(self._open.get(holder, ())) >= self._most_of_one:
            return holder
        if len(self) < self._most:
            return None
        return max(self._open, key=lambda one: len(self._open[one]))
