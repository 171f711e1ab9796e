"""A table of models on the terminal: one table for the leaky split, one for the grouped split."""

from pathlib import Path

from rich import box
from rich.table import Table

from cdtl_core.cli.screen import open_console
from cdtl_core.results.model_table import ModelTable, RowResult, SplitResult
from cdtl_core.results.report import Estimate

__all__ = ["print_models"]

_WIDTH = 190
_FIGURES = ("accuracy", "sensitivity", "f1", "precision", "auroc")


def print_models(table: ModelTable, folder: Path) -> None:
    """Print both tables, and notes that explain the figures."""
    console = open_console(width=_WIDTH)
    leaky = [(row, row.leaky) for row in table.rows if row.leaky]
    grouped = [(row, row.grouped) for row in table.rows if row.grouped]
    for title, rows in (
        ("LEAKY split by image, only for parity with the literature", leaky),
        ("grouped: no patient's images on both sides", grouped),
    ):
        if rows:
            console.print(_table(f"{table.name}, {table.target}: {title}", rows))
    for line in _notes(table, folder):
        console.print(line, soft_wrap=True)


def _table(title: str, rows: list[tuple[RowResult, SplitResult]]) -> Table:
    found = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    found.add_column("model", overflow="fold")
    for header in ("tested", "majority", *_FIGURES, "parameters", "MACs", "epochs", "minutes"):
        found.add_column(header, justify="right")
    for row, split in rows:
        figures = [_estimate(split.figures[name]) for name in _FIGURES]
        epochs = f"{row.steps * row.batch_size / split.training_images:.1f}"
        cost = [f"{row.parameters / 1e6:.2f} M", f"{row.macs / 1e9:.3f} G"]
        found.add_row(
            row.row, _tested(split), f"{split.majority_rate:.3f}", *figures, *cost, epochs, f"{split.seconds / 60:.1f}"
        )
    return found


def _tested(split: SplitResult) -> str:
    """Return ``647, 5 folds x 2``: images of a repeat, folds, repeats."""
    folds = f", {split.folds} folds" if split.folds > 1 else ""
    return f"{split.tested_images}{folds} x {split.repeats}"


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.2f}-{estimate.high:.2f})"


def _notes(table: ModelTable, folder: Path) -> list[str]:
    notes = []
    if table.synthetic:
        notes.append("Images are SYNTHETIC phantoms: these figures have no medical meaning.")
    leaked = [row.leaky.leaked for row in table.rows if row.leaky]
    if leaked:
        notes.append(
            f"leaky: for {leaked[0]:.0%} of the test images another image of the same patient is in training; such "
            "figures are better than for a new patient."
        )
    notes.append("Mean over repeats, 95 % bootstrap interval over patients; rates at threshold 0.5; - is 0/0.")
    for row in table.rows:
        if row.grouped and row.grouped.auroc_of_mean:
            mean = _estimate(row.grouped.auroc_of_mean)
            notes.append(f"{row.row}, ensemble over its {row.grouped.repeats} repeats: AUROC {mean}")
    notes.append(f"table.json and every cell's scores are in {folder}.")
    return notes
