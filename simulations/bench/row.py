"""A row of the benchmark: what is compared, its bar, how it is measured, and whether the bar was met."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from simulations.bench.session import Session

__all__ = ["Measured", "Play", "Row", "verdict"]

Play = tuple[str, str]
"""A job and the arm that plays it, as `Session.plays` knows them."""


@dataclass(frozen=True)
class Measured:
    """Result of a row.

    Attributes:
        value: In the row's unit; None where it could not be had, and `note` says why.
        note: The figures behind the value, one line.
        figures: Everything that was measured, for the JSON.
        floor: What stops the value short of its bar, where it does.
        runs: Of each arm; 0: as many as the session's.
    """

    value: float | None
    note: str
    figures: Mapping[str, object] = field(default_factory=dict)
    floor: str = ""
    runs: int = 0


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: Short, for `--rows`.
        what: A line a person understands.
        bar: The value to reach.
        measure: Measures it.
        sense: Whether the bar bounds the value from above or from below.
        unit: Of the value: ``x`` is a ratio.
        needs: Jobs and arms that it reads; those of all rows are played in turn before any is measured.
        minutes: About how long it takes with five runs on two cores, without what `needs` takes.
    """

    name: str
    what: str
    bar: float
    measure: "Callable[[Session], Measured]"
    sense: Literal["at most", "at least"] = "at most"
    unit: str = "x"
    needs: tuple[Play, ...] = ()
    minutes: float = 0.0


def verdict(row: Row, measured: Measured) -> Literal["met", "missed", "not had"]:
    """Whether the bar was reached."""
    if measured.value is None:
        return "not had"
    reached = measured.value <= row.bar if row.sense == "at most" else measured.value >= row.bar
    return "met" if reached else "missed"
