"""The result of a comparison as a table for a person."""

from pathlib import Path

from rich import box
from rich.table import Table

from cdtl_core.cli.screen import open_console
from cdtl_core.reporting.comparison import ArmResult, Comparison, Point
from cdtl_core.reporting.report import Estimate

__all__ = ["print_comparison"]

_WIDTH = 180


def print_comparison(comparison: Comparison, folder: Path) -> None:
    """Print one row per target, number of patients and method and, below, what the figures are."""
    console = open_console(width=_WIDTH)
    seeds, folds = len(comparison.seeds), comparison.folds
    runs = f" x {comparison.runs} runs" if comparison.runs > 1 else ""
    title = f"{comparison.name}: out-of-fold AUROC (95 % interval over patients), {seeds} seeds x {folds} folds{runs}"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("target", overflow="fold")
    table.add_column("patients", justify="right")
    table.add_column("method", overflow="fold")
    for header in ("one site", "less alone", "less theta0 control", "all seeds averaged", "less alone"):
        table.add_column(header, justify="center")
    table.add_column("claim", no_wrap=True)
    for point in comparison.points:
        for method in comparison.methods:
            is_last = method == comparison.methods[-1]
            table.add_row(*_row(point, method, point.results[method]), end_section=is_last)
    console.print(table)
    for line in _notes(comparison, folder):
        console.print(line, soft_wrap=True)


def _row(point: Point, method: str, result: ArmResult) -> list[str]:
    control = result.minus_of_one[result.theta0_control] if result.theta0_control else None
    return [
        point.target,
        f"all ({point.training_patients:g})" if point.patients == "all" else str(point.patients),
        method,
        _estimate(result.auroc_of_one),
        _estimate(result.minus_of_one.get("alone"), "+"),
        _estimate(control, "+"),
        _estimate(result.auroc),
        _estimate(result.minus.get("alone"), "+"),
        result.claim or "",
    ]


def _estimate(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None or estimate.value is None:
        return "" if estimate is None else "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{sign}.3f} (no interval)"
    return f"{estimate.value:{sign}.3f} ({estimate.low:{sign}.2f} to {estimate.high:{sign}.2f})"


def _notes(comparison: Comparison, folder: Path) -> list[str]:
    notes = []
    if any(point.synthetic for point in comparison.points):
        notes.append("Images are SYNTHETIC phantoms: these figures say nothing about patients.")
    trains = "trains once" if comparison.runs == 1 else f"averages {comparison.runs} trainings"
    notes.append(
        f"one site: mean of the seeds' own AUROCs, what a site has with these patients that {trains}; all seeds "
        "averaged: of scores that more patients than one site's stand behind."
    )
    notes.append(
        "gain: the paired intervals against alone and against the theta0 control are both above 0; worse than alone: "
        "the former is below 0."
    )
    claimed = [result for point in comparison.points for result in point.results.values() if result.claim]
    if any(result.theta0_control is None for result in claimed):
        notes.append("No theta0 control was played, so no gain can be claimed: add cdtl_from_theta0 to --methods.")
    if any(result.auroc.low is None for point in comparison.points for result in point.results.values()):
        notes.append("no interval: fewer than 10 patients tested; such a figure is an anecdote.")
    notes.append(f"compare.json, curves.png, curves.svg and every cell's scores are in {folder}.")
    return notes
