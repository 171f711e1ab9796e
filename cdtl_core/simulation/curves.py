"""Learning curves of a comparison: AUROC over training patients, one panel per receiver and set of donors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cdtl_core.results.comparison import ArmResult, Comparison, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "save_curves", "spread"]

Floats = npt.NDArray[np.float64]
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6000")
_ALONE = "#000000"
_DASHES: Sequence[Any] = ("-", (0, (5, 2)), (0, (1, 1.5)))
_GAP = 0.055  # between labels, as a share of a panel's height


def save_curves(out: Path, comparison: Comparison) -> None:
    """Write curves.png and curves.svg; the same comparison gives the same pictures."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "cdtl", "svg.fonttype": "none", "font.size": 9}):
        figure = draw_curves(comparison)
        figure.savefig(out / "curves.png", dpi=150)
        figure.savefig(out / "curves.svg", metadata={"Date": None})


def draw_curves(comparison: Comparison) -> "Figure":
    """Return the figure: lines with 95 % intervals as bands (bars if there is one size), each named at its end.

    The colours are those of Okabe and Ito, which colour-blind readers can distinguish; controls are dashed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    targets = [name for name in comparison.targets if any(point.target == name for point in comparison.points)]
    figure = Figure(figsize=(5.2 * len(targets) + 0.6, 3.8 * len(comparison.donors) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(comparison.donors), len(targets), squeeze=False, sharey=True)
    panels = {
        (donors, target): grid[row][column]
        for row, donors in enumerate(comparison.donors)
        for column, target in enumerate(targets)
    }
    for key, panel in panels.items():
        _draw_panel(panel, _points(comparison, *key), comparison.methods)
    for key, panel in panels.items():  # after the common scale is known
        if len(points := _points(comparison, *key)) > 1:
            _label(panel, points[-1], comparison.methods)
    for line in grid:
        line[0].set_ylabel("AUROC, out of fold (95 % interval)")
    seeds, folds = len(comparison.seeds), comparison.folds
    synthetic = ", SYNTHETIC images" if any(point.synthetic for point in comparison.points) else ""
    figure.suptitle(f"{comparison.name}: one site, mean of {seeds} draws, {folds} folds{synthetic}", fontsize=10)
    return figure


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return positions in the same order, at least `gap` apart, as close as possible to these heights."""
    order = np.argsort(heights, kind="stable")
    blocks: list[list[float]] = []  # each with the sum of (height - rank * gap) and its members
    for rank, index in enumerate(order):
        blocks.append([heights[index] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, members = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += members
    bases = [total / members for total, members in blocks for _ in range(int(members))]
    placed = dict(zip(order.tolist(), (base + rank * gap for rank, base in enumerate(bases)), strict=True))
    return [placed[index] for index in range(len(heights))]


def _points(comparison: Comparison, donors: str, target: str) -> list[Point]:
    found = [point for point in comparison.points if (point.donors, point.target) == (donors, target)]
    return sorted(found, key=lambda point: point.training_patients)


def _draw_panel(panel: "Axes", points: Sequence[Point], methods: Sequence[str]) -> None:
    if not points:
        panel.axis("off")
        return
    panel.axhline(0.5, color="0.75", linewidth=0.8, zorder=0)
    one = points[0]
    donors = "donors of other modalities" if one.donors == "other" else "all other sites"
    panel.set_title(f"{one.target} ({one.modality}, {one.tested_patients} tested), {donors}", fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    if len(points) == 1:
        _draw_bars(panel, points[0], methods)
        return
    sizes = [point.training_patients for point in points]
    for method in methods:
        _draw_line(panel, sizes, [point.results[method] for point in points], _look(method, methods), len(methods))
    panel.set_xscale("log")
    panel.set_xticks(sizes, [_size(point) for point in points])
    panel.set_xticks([], minor=True)
    panel.set_xlim(sizes[0] / 1.12, sizes[-1] * 1.02)
    panel.set_xlabel("training patients at the site")


def _draw_bars(panel: "Axes", point: Point, methods: Sequence[str]) -> None:
    """Draw one size: each method in a separate column, named below."""
    for place, method in enumerate(methods):
        colour, _ = _look(method, methods)
        value, low, high = _figures([point.results[method]])
        panel.errorbar([place], value, [value - low, high - value], color=colour, fmt="o", markersize=4, linewidth=1.2)
    panel.set_xticks(range(len(methods)), methods, rotation=35, ha="right")
    panel.set_xlabel(f"{_size(point)} training patients at the site".replace("\n", " "))


def _draw_line(
    panel: "Axes", sizes: Sequence[float], results: Sequence[ArmResult], look: tuple[str, Any], lines: int
) -> None:
    colour, dashes = look
    value, low, high = _figures(results)
    panel.fill_between(sizes, low, high, color=colour, alpha=min(0.12, 0.5 / lines), linewidth=0)
    panel.plot(sizes, value, color=colour, linestyle=dashes, marker="o", markersize=3, linewidth=1.6)


def _figures(results: Sequence[ArmResult]) -> tuple[Floats, Floats, Floats]:
    found = [(one.auroc.value, one.auroc.low, one.auroc.high) for one in results]
    value, low, high = np.array([[np.nan if part is None else part for part in one] for one in found]).T
    return value, low, high


def _label(panel: "Axes", last: Point, methods: Sequence[str]) -> None:
    """Write the name of each line next to its end, in its colour."""
    ends = {method: value for method in methods if (value := last.results[method].auroc.value) is not None}
    bottom, top = panel.get_ylim()
    places = np.array(spread(list(ends.values()), _GAP * (top - bottom)))
    places += min(0.0, top - places.max(initial=bottom))
    across = panel.get_yaxis_transform()  # x as a share of the panel's width
    for (method, height), place in zip(ends.items(), places.tolist(), strict=True):
        colour, _ = _look(method, methods)
        panel.plot([1.0, 1.05], [height, place], transform=across, color=colour, linewidth=0.6, clip_on=False)
        panel.text(1.06, place, "local" if method == "alone" else method, transform=across, color=colour, va="center")
    panel.set_ylim(bottom, top)


def _look(method: str, methods: Sequence[str]) -> tuple[str, Any]:
    """Return colour and dashes: local training is black, a control is dashed, repeated colours get other dashes."""
    if method == "alone":
        return _ALONE, _DASHES[0]
    place = [name for name in methods if name != "alone"].index(method)
    is_control = ":" in method or method.endswith("initial_weights") or method == "own_twice"
    return _COLOURS[place % len(_COLOURS)], _DASHES[1 if is_control else 2 * (place >= len(_COLOURS))]


def _size(point: Point) -> str:
    return f"all\n({point.training_patients:g})" if point.patients == "all" else str(point.patients)
