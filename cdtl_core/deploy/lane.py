"""Limits the number of open connections, and chooses which one to close for a new one."""

from collections.abc import Callable

__all__ = ["Lane"]


class Lane:
    """Open connections by holder (an address, or a site). A full lane accepts a new connection and closes an old one.

    This keeps the door open for short visits, for example health probes. If new connections were refused, early ones
    could hold all places.

    Args:
        most: Largest number of connections of all holders.
        most_of_one: Largest number of connections of one holder.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._open: dict[str, dict[object, Callable[[], None]]] = {}

    def enter(self, holder: str, who: object, end: Callable[[], None]) -> str | None:
        """Count a connection; returns the holder of the connection that was closed for it, if any.

        Args:
            holder: Holder of the connection.
            who: The connection.
            end: Closes it; called at most once, when another connection takes its place.
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
        """Remove a connection; it may have been removed already."""
        of_holder = self._open.get(holder, {})
        of_holder.pop(who, None)
        if not of_holder:
            self._open.pop(holder, None)

    def holds(self, holder: str) -> bool:
        """Whether the holder has an open connection."""
        return holder in self._open

    def __len__(self) -> int:
        """Return the number of open connections."""
        return sum(map(len, self._open.values()))

    def _loser(self, holder: str) -> str | None:
        if len(self._open.get(holder, ())) >= self._most_of_one:
            return holder
        if len(self) < self._most:
            return None
        return max(self._open, key=lambda one: len(self._open[one]))
