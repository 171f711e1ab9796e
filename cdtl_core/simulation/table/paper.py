"""A table of models over one site's images, split by image and by patient, as in the paper's tables."""

import shutil
from contextlib import closing
from functools import partial
from pathlib import Path

from cdtl_core.config import PaperConfig, SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import load_simulation, save_toml, simulation_toml
from cdtl_core.errors import CheckpointError, ConfigError
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.results.model_table import ModelTable, save_table
from cdtl_core.simulation.cell import CELLS, SETTINGS_FILE, open_sites
from cdtl_core.simulation.crew import Processes
from cdtl_core.simulation.preparing import check_patients
from cdtl_core.simulation.run_folder import refuse_used, with_absolute_paths
from cdtl_core.simulation.table.row_cell import (
    RowCell,
    cells_of_row,
    cells_of_table,
    play_row_cell,
    row_sites,
    run_of_row,
    table_of,
)
from cdtl_core.simulation.table.row_tally import tally_rows
from cdtl_core.system.durable import locked, replace_json
from cdtl_core.system.progress import report

__all__ = ["only_rows", "play_table", "resume_table"]

TABLE_FILE = "table.json"


def play_table(config: SimulationConfig, out: Path, *, jobs: int) -> ModelTable:
    """Run every cell of the configuration's table and write the folder `out`.

    All images are read, every network is built and every split is tried before training. If that fails, nothing is left
    behind.

    Args:
        config: The federation and its table.
        out: Folder of the table.
        jobs: Number of processes.

    Raises:
        CheckpointError: `out` is not empty.
        CdtlError: A site's data, a setting or the training fails; the sentence says which.
    """
    table_of(config)
    refuse_used(out, resume_table)
    config = with_absolute_paths(config)
    with locked(out):
        if (out / SETTINGS_FILE).exists():
            refuse_used(out, resume_table)
        try:
            save_toml(out / SETTINGS_FILE, simulation_toml(config))
            _prepare(config, out)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        return _play(config, out, jobs)


def resume_table(out: Path, *, jobs: int) -> ModelTable:
    """Continue the table in `out` with its finished cells; a finished table is reported again.

    Raises:
        CheckpointError: `out` holds no table, or a site's patients have changed since it began.
    """
    config = load_simulation(out / SETTINGS_FILE) if (out / SETTINGS_FILE).exists() else None
    if config is None or config.paper is None:
        raise CheckpointError(f"{out} holds no table of models: give the folder of an earlier --out.")
    with locked(out):
        if _cells_left(config.paper, out):
            _prepare(config, out)
        return _play(config, out, jobs)


def only_rows(config: SimulationConfig, names: list[str]) -> SimulationConfig:
    """Return the table with only some of its rows, in its own order.

    Raises:
        ConfigError: A row is unknown.
    """
    table = table_of(config)
    known = [row.row for row in table.rows]
    for name in names:
        if name not in known:
            raise ConfigError(f"the row '{name}' is not in the table: use {', '.join(known)}.")
    rows = tuple(row for row in table.rows if row.row in names)
    return config.model_copy(update={"paper": table.model_copy(update={"rows": rows})})


def _prepare(config: SimulationConfig, out: Path) -> None:
    table = table_of(config)
    for own in config.sites:
        save_toml(RunFolder(out).site(own.site).settings, own.model_dump(mode="json", exclude_none=True))
        report(preparing=own.site)
    check_patients(open_sites(config, out), out)
    for row in table.rows:
        report(preparing=row.row)
        run = run_of_row(config, row)
        build_initial_weights(run.model, run.seed, run.image.size)
        for cell in [*cells_of_row(row, "leaky"), *cells_of_row(row, "grouped")]:
            row_sites(config, table, row, cell, out)


def _cells_left(table: PaperConfig, out: Path) -> list[RowCell]:
    return [cell for cell in cells_of_table(table) if not (out / CELLS / cell.file).exists()]


def _play(config: SimulationConfig, out: Path, jobs: int) -> ModelTable:
    table = table_of(config)
    left, total = _cells_left(table, out), sum(1 for _ in cells_of_table(table))
    report(cells=total, cells_done=total - len(left))
    with closing(Processes(jobs).work_through(left, partial(play_row_cell, out))) as played:
        for done, (cell, found) in enumerate(played, start=total - len(left) + 1):
            replace_json(out / CELLS / cell.file, found)
            what = f"{cell.row}, {cell.split}, repeat {cell.repeat}, fold {cell.fold}"
            report(cells=total, cells_done=done, cell=what)
    result = tally_rows(config, out)
    save_table(out / TABLE_FILE, result)
    return result
