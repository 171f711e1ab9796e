"""One cell of a table of models: one row on one split, trained and scored, with the scores as a file."""

import functools
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cdtl_core.config import PaperConfig, RowConfig, RunConfig, SimulationConfig
from cdtl_core.config.settings import changed_run, load_simulation
from cdtl_core.data.split import SPLITS
from cdtl_core.errors import ConfigError, DataError
from cdtl_core.federation.site import Site
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.simulation.cell import SETTINGS_FILE, open_sites, scores_of
from cdtl_core.simulation.folds import scarce_site, whole_fold
from cdtl_core.simulation.methods.loop import play
from cdtl_core.simulation.methods.registry import method_of

__all__ = [
    "RowCell",
    "cells_of_row",
    "cells_of_table",
    "leaked_share",
    "leaky_site",
    "play_row_cell",
    "row_sites",
    "run_of_row",
    "table_of",
]


def leaky_site(site: Site, *, seed: int, test_images: int) -> Site:
    """Return the site with `test_images` random images as its test split, regardless of patients and labels.

    `split.val` of the others are for validation. Its results are too good: LEAKY, only for parity with the literature.

    Args:
        site: The site.
        seed: Seed of the split.
        test_images: Number of test images.

    Raises:
        DataError: The site has too few images.
    """
    whole = whole_fold(site.cohort)
    count = whole.num_units
    num_val = max(1, round(site.config.split.val * count))
    if test_images + num_val >= count:
        raise DataError(f"site {site.name} has {count} images and is to test {test_images}: lower paper.test_images.")
    drawn = np.random.default_rng([seed, zlib.crc32(site.name.encode()), zlib.crc32(b"leaky")]).permutation(count)
    ends = {"test": drawn[:test_images], "val": drawn[test_images:][:num_val], "train": drawn[test_images + num_val :]}
    folds = {split: whole.where(np.sort(ends[split])) for split in SPLITS}
    return replace(site, cohort=replace(site.cohort, folds=folds))


def leaked_share(site: Site) -> float:
    """Return the share of test images with another image of the same patient in training."""
    folds = site.cohort.folds
    return float(np.isin(folds["test"].patients, folds["train"].patients).mean())


Split = Literal["leaky", "grouped"]


@dataclass(frozen=True)
class RowCell:
    """One training: a row, how its images are split, the repeat, and the fold (0 in a leaky split)."""

    row: str
    split: Split
    repeat: int
    fold: int

    @property
    def file(self) -> str:
        """Name of its file."""
        row = "".join(letter if letter.isalnum() else "_" for letter in self.row.lower())
        return f"{row}-{self.split}-repeat{self.repeat}-fold{self.fold}.json"


def table_of(config: SimulationConfig) -> PaperConfig:
    """Return the table that a configuration describes.

    Raises:
        ConfigError: It describes none, or an invalid one.
    """
    if config.paper is None:
        raise ConfigError("the configuration has no [paper] table: start from configs/paper.toml.")
    files = [cell.file for cell in cells_of_table(config.paper)]
    if len(set(files)) < len(files):
        raise ConfigError("two rows of [paper] have nearly the same name: make the names differ in letters or digits.")
    for row in config.paper.rows:
        method_of(row.method)
        if run_of_row(config, row).dp.enabled:
            raise ConfigError(
                f"row '{row.row}' has dp.enabled, but a table has no differential privacy: set dp.enabled = false."
            )
    return config.paper


def cells_of_row(row: RowConfig, split: Split) -> Iterator[RowCell]:
    """Return a row's cells for one kind of split."""
    for repeat in range(row.leaky if split == "leaky" else row.repeats):
        for fold in range(1 if split == "leaky" else row.folds):
            yield RowCell(row.row, split, repeat, fold)


def cells_of_table(table: PaperConfig) -> Iterator[RowCell]:
    """Return all cells, row by row."""
    for row in table.rows:
        yield from cells_of_row(row, "leaky")
        yield from cells_of_row(row, "grouped")


def run_of_row(config: SimulationConfig, row: RowConfig) -> RunConfig:
    """Return the run's settings with the row's changes.

    Raises:
        ConfigError: A change is unknown or ill-typed.
    """
    return changed_run(config.run, row.changes, f"row '{row.row}'")


def play_row_cell(out: Path, cell: RowCell) -> dict[str, Any]:
    """Train and score a cell of the table in `out`; returns the content of its file.

    Raises:
        CdtlError: The data, a setting or the training fails; the sentence says which.
    """
    began = time.perf_counter()
    config = _settings(out.resolve())
    table = table_of(config)
    row = next(row for row in table.rows if row.row == cell.row)
    sites = row_sites(config, table, row, cell, out)
    target = next(site for site in sites if site.name == table.target)
    scores = _scores(config, row, sites, target, cell)
    scores["leaked"] = leaked_share(target)
    scores["training_images"] = target.cohort.folds["train"].num_images
    seconds = round(time.perf_counter() - began, 2)
    return {"targets": {target.name: scores}, "seconds": seconds}


def row_sites(config: SimulationConfig, table: PaperConfig, row: RowConfig, cell: RowCell, out: Path) -> list[Site]:
    """Return the target with the cell's split, and for a method other than alone also the other, unchanged sites.

    Args:
        config: The federation.
        table: The table.
        row: The row.
        cell: The cell.
        out: Folder of the table.

    Raises:
        DataError: The target has too few patients or images.
    """
    wanted = [own for own in config.sites if row.method != "alone" or own.site == table.target]
    run = run_of_row(config, row)
    sites = open_sites(config.model_copy(update={"run": run, "sites": tuple(wanted), "paper": None}), out)
    return [_cut(site, table, row, cell) if site.name == table.target else site for site in sites]


def _cut(site: Site, table: PaperConfig, row: RowConfig, cell: RowCell) -> Site:
    seed = site.config.seed + cell.repeat
    if cell.split == "leaky":
        return leaky_site(site, seed=seed, test_images=table.test_images)
    return scarce_site(site, seed=seed, fold=cell.fold, folds=row.folds, patients=None)


def _scores(config: SimulationConfig, row: RowConfig, sites: list[Site], target: Site, cell: RowCell) -> dict[str, Any]:
    """Return test scores of the cell's model; its seed is the run's plus the repeat."""
    run = run_of_row(config, row)
    run = run.model_copy(update={"seed": run.seed + cell.repeat})
    initial_weights = build_initial_weights(run.model, run.seed, run.image.size)
    models = play(method_of(row.method), [replace(site, config=run) for site in sites], initial_weights, run)
    return scores_of(target, models[target.name])


@functools.lru_cache(maxsize=1)
def _settings(out: Path) -> SimulationConfig:
    return load_simulation(out / SETTINGS_FILE)
