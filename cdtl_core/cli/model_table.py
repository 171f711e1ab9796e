"""A table of models on the terminal: one table for the leaky split, one for the grouped split."""

from pathlib import Path

from cdtl_core.cli.columns import Column, print_columns
from cdtl_core.cli.screen import open_console
from cdtl_core.results.model_table import ModelTable, RowResult, SplitResult
from cdtl_core.results.report import Estimate

__all__ = ["print_models"]

_FIGURES = ("accuracy", "sensitivity", "f1", "precision", "auroc")


def print_models(table: ModelTable, folder: Path) -> None:
    """Print both tables, and notes that explain the figures."""
    console = open_console()
    leaky = [(row, row.leaky) for row in table.rows if row.leaky]
    grouped = [(row, row.grouped) for row in table.rows if row.grouped]
    for title, rows in (
        ("LEAKY split by image, only for parity with the literature", leaky),
        ("grouped: no patient's images on both sides", grouped),
    ):
        if rows:
            print_columns(console, f"{table.name}, {table.target}: {title}", _columns(rows))
    for line in _notes(table, folder):
        console.print(line, soft_wrap=True)


def _columns(rows: list[tuple[RowResult, SplitResult]]) -> list[Column]:
    splits = [split for _, split in rows]
    epochs = [f"{row.steps * row.batch_size / split.training_images:.1f}" for row, split in rows]
    return [
        Column("model", [row.row for row, _ in rows], "left"),
        Column("tested", [_tested(split) for split in splits]),
        Column("majority", [f"{split.majority_rate:.3f}" for split in splits]),
        *(Column(name, [_estimate(split.figures[name]) for split in splits]) for name in _FIGURES),
        Column("parameters", [f"{row.parameters / 1e6:.2f} M" for row, _ in rows]),
        Column("MACs", [f"{row.macs / 1e9:.3f} G" for row, _ in rows]),
        Column("epochs", epochs),
        Column("minutes", [f"{split.seconds / 60:.1f}" for split in splits]),
    ]


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
