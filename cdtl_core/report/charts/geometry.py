"""Positions of a chart's lines, marks and texts: numbers and SVG path strings, no markup."""

from collections.abc import Sequence
from dataclasses import dataclass

from cdtl_core.report.charts.figure import Axis, Chart, Forest, Line

__all__ = ["Drawn", "DrawnLine", "DrawnRow", "draw_chart", "draw_forest", "mark"]

WIDTH, HEIGHT = 360, 270
LEFT, RIGHT, TOP, BOTTOM = 72, 12, 12, 44
_ROW = 30
_MARKS = 4


@dataclass(frozen=True)
class DrawnLine:
    """The paths of one line; empty if it has none."""

    style: int
    path: str
    area: str
    marks: Sequence[str]
    whiskers: str


@dataclass(frozen=True)
class Drawn:
    """A laid-out chart of `width` x `height`; ticks are (position, text)."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[DrawnLine]
    bars: Sequence[tuple[float, float, float, float, int]]
    rules: Sequence[tuple[float, float, float, float, str]]


@dataclass(frozen=True)
class DrawnRow:
    """One estimate of a forest plot; `whisker` is empty without an interval."""

    y: float
    label: str
    text: str
    style: int
    mark: str
    whisker: str


def draw_chart(chart: Chart) -> Drawn:
    """Lay a chart out."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(value: float) -> float:
        return round(LEFT + chart.x.share(value) * (right - LEFT), 1)

    def up(value: float) -> float:
        return round(bottom - chart.y.share(value) * (bottom - TOP), 1)

    zero = up(0.0)
    return Drawn(
        WIDTH, HEIGHT, LEFT, right, TOP, bottom,
        x_ticks=[(across(value), text) for value, text in chart.x.ticks],
        y_ticks=[(up(value), text) for value, text in chart.y.ticks],
        lines=[_line(line, chart.x, chart.y) for line in chart.lines],
        bars=[
            (across(bar.low) + 0.5, min(zero, up(bar.height)), across(bar.high) - across(bar.low) - 1,
             abs(zero - up(bar.height)), bar.style)
            for bar in chart.bars
        ],
        rules=[(across(r.start[0]), up(r.start[1]), across(r.end[0]), up(r.end[1]), r.label) for r in chart.rules],
    )  # fmt: skip


def draw_forest(forest: Forest) -> tuple[int, Sequence[tuple[float, str]], float, Sequence[DrawnRow]]:
    """Return the picture's height, the ticks, the position of zero, and the rows."""
    left, right = 26.0, WIDTH - 26.0

    def across(value: float) -> float:
        return round(left + forest.x.share(value) * (right - left), 1)

    rows = []
    for number, row in enumerate(forest.rows):
        y = 18.0 + number * (_ROW + 12) + 14
        known = row.low is not None and row.high is not None
        whisker = f"M{across(row.low)} {y}H{across(row.high)}" if row.low is not None and row.high is not None else ""
        ends = f"M{across(row.low or 0)} {y - 4}v8M{across(row.high or 0)} {y - 4}v8" if known else ""
        drawn = mark(across(row.value), y, row.style) if row.value is not None else ""
        rows.append(DrawnRow(y, row.label, row.text, row.style, drawn, whisker + ends))
    height = 18 + len(forest.rows) * (_ROW + 12) + 44
    return height, [(across(value), text) for value, text in forest.x.ticks], across(0.0), rows


def mark(x: float, y: float, style: int, size: float = 4.5) -> str:
    """Return the outline of a mark: circle, square, diamond or triangle, depending on the style.

    Args:
        x: Centre.
        y: Centre.
        style: Number of the style.
        size: Half its width.
    """
    kind, s = style % _MARKS, size
    if kind == 0:
        return f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z"
    if kind == 1:
        return f"M{x - 0.9 * s:.1f} {y - 0.9 * s:.1f}h{1.8 * s:.1f}v{1.8 * s:.1f}h{-1.8 * s:.1f}z"
    if kind == 2:
        d = 1.25 * s
        return f"M{x:.1f} {y - d:.1f}l{d:.1f} {d:.1f}l{-d:.1f} {d:.1f}l{-d:.1f} {-d:.1f}z"
    return f"M{x:.1f} {y - 1.15 * s:.1f}l{1.15 * s:.1f} {2 * s:.1f}h{-2.3 * s:.1f}z"


def _line(line: Line, x: Axis, y: Axis) -> DrawnLine:
    points = _points(line.x, line.y, x, y)
    path = _path(points) if line.shape in {"line", "both"} else _steps(points) if line.shape == "steps" else ""
    marks = [mark(px, py, line.style, 3.6) for px, py in points] if line.shape in {"points", "both"} else []
    if line.band is None:
        return DrawnLine(line.style, path, "", marks, "")
    low, high = (_points(line.band_x, ends, x, y) for ends in line.band)
    if line.shape == "points":
        whiskers = "".join(f"M{a} {b}V{c}" for (a, b), (_, c) in zip(low, high, strict=True))
        return DrawnLine(line.style, path, "", marks, whiskers)
    return DrawnLine(line.style, path, _path(low) + _path(high[::-1]).replace("M", "L", 1) + "z", marks, "")


def _points(xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis) -> list[tuple[float, float]]:
    wide, tall = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP
    return [
        (round(LEFT + x.share(a) * wide, 1), round(HEIGHT - BOTTOM - y.share(b) * tall, 1))
        for a, b in zip(xs, ys, strict=True)
    ]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points) if points else ""


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """Draw steps, first vertical, then horizontal: between two points the precision is that of the second."""
    if not points:
        return ""
    (x, y), rest = points[0], points[1:]
    return f"M{x} {y}" + "".join(f"V{b}H{a}" for a, b in rest)
