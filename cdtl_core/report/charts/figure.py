"""Figures of the report as values: the drawing, and the same data as a table for screen readers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

__all__ = ["Axis", "Bar", "Chart", "Figure", "Forest", "Gallery", "Heat", "Line", "Picture", "Presence", "PresenceRow"]
__all__ += ["Row", "Rule", "Shape", "Sheet", "Table", "axis_of", "ticks_of"]

Shape = Literal["line", "points", "both", "steps"]


@dataclass(frozen=True)
class Table:
    """Rows of text under headers; columns from `numbers` on are figures and aligned to the right."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 1
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Sheet:
    """A table with a sentence below it."""

    table: Table
    says: str
    kind: ClassVar[str] = "sheet"


@dataclass(frozen=True)
class Axis:
    """An axis: its label, its ends and its ticks."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """Return the position of a value between the ends, clipped to 0 to 1."""
        span = self.high - self.low
        return min(1.0, max(0.0, (value - self.low) / span)) if span else 0.5


@dataclass(frozen=True)
class Line:
    """One line; `style` sets colour, dash and mark together, so that no two lines differ only in colour.

    Attributes:
        band: Low and high at `band_x`, drawn as an area; or, with `shape` points, one bar per point.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: int
    shape: Shape = "line"
    band_x: Sequence[float] = ()
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Bar:
    """A column from `low` to `high` on the horizontal axis; negative heights point down."""

    low: float
    high: float
    height: float
    style: int


@dataclass(frozen=True)
class Rule:
    """A straight reference line: a diagonal, a threshold, zero."""

    start: tuple[float, float]
    end: tuple[float, float]
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """Lines or bars on two axes; `says` is the figure in a sentence, `legend` names the styles of bars."""

    title: str
    says: str
    x: Axis
    y: Axis
    table: Table
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    rules: Sequence[Rule] = ()
    legend: Sequence[tuple[int, str]] = ()
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Row:
    """One estimate of a forest plot; None if there is nothing to draw."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    style: int
    text: str = ""


@dataclass(frozen=True)
class Forest:
    """Estimates below each other on one axis, with zero marked."""

    title: str
    says: str
    x: Axis
    rows: Sequence[Row]
    kind: ClassVar[str] = "forest"


@dataclass(frozen=True)
class Heat:
    """A matrix with its numbers as a table; `scale` is the value with full colour."""

    title: str
    says: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    texts: Sequence[Sequence[str]]
    corner: str = ""
    scale: float = 1.0
    kind: ClassVar[str] = "heat"

    def level(self, row: int, column: int) -> int:
        """Return the level of the cell's colour, 0 to 10."""
        value = self.values[row][column]
        return 0 if value is None else round(10 * min(1.0, max(0.0, value / self.scale)))


@dataclass(frozen=True)
class PresenceRow:
    """A site's presence in each round and at the end, as keys for the page and as words."""

    site: str
    kinds: Sequence[str]
    words: str
    end: str


@dataclass(frozen=True)
class Presence:
    """Presence of all sites by round; `says` in a sentence."""

    says: str
    rows: Sequence[PresenceRow]
    kind: ClassVar[str] = "presence"


@dataclass(frozen=True)
class Picture:
    """An image with a caption and a description; `source` is a data URL, `share` a bar from 0 to 1."""

    source: str
    words: str
    caption: str
    share: float | None = None


@dataclass(frozen=True)
class Gallery:
    """Pictures in a row, under a title and with a sentence below, if these are given."""

    pictures: Sequence[Picture] = field(default_factory=tuple)
    title: str = ""
    says: str = ""
    kind: ClassVar[str] = "gallery"


Figure = Chart | Forest | Heat | Table | Sheet | Gallery
"""Figures that a grid can hold."""


def axis_of(label: str, values: Sequence[float], *, floor: float | None = None) -> Axis:
    """Return an axis that contains all values, with round ends.

    Args:
        label: Label of the axis.
        values: The values.
        floor: A value that is always visible.
    """
    found = [value for value in values if math.isfinite(value)]
    found += [floor] if floor is not None else []
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if low else (0.0, 1.0)
    ticks = ticks_of(low, high)
    return Axis(label, min(low, ticks[0][0]), max(high, ticks[-1][0]), ticks)


def ticks_of(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Return about `most` round tick values that cover low to high.

    If both are equal, the ticks cover half a unit around them.

    Args:
        low: Lowest value.
        high: Highest value.
        most: Largest number of ticks, approximately.
    """
    if low == high:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw - 1e-12)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if str(step).rstrip("0").endswith("25") else 0))
    return [(n * step, f"{n * step:.{digits}f}".replace("-", "\u2212")) for n in range(first, last + 1)]
