"""Live views of a run: browser, TensorBoard, MLflow."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer

from cdtl_core.config import SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import flatten, load_simulation
from cdtl_core.federation.journal import Ending, Round, read_entries
from cdtl_core.report.charts.styles import method_name
from cdtl_core.report.tracking import MlflowSink, Sink, TensorBoardSink, following, has_tensorboard
from cdtl_core.results.text import ending_lines, round_lines

__all__ = ["watching", "writing_events"]


@contextmanager
def watching(
    folder: Path, settings: SimulationConfig | None, *, open_: bool, mlflow: str, json: bool = False
) -> Iterator[None]:
    """Show a simulation's rounds in the chosen tools while the block runs; without a terminal, one line for each.

    Args:
        folder: The run directory.
        settings: Settings of the run.
        open_: Open the page in a browser.
        mlflow: Tracking server or folder; None: no MLflow.
        json: Keep stdout for the report.

    Raises:
        ConfigError: A library for it is missing.
    """
    more: list[Sink] = []
    if mlflow:
        run = (settings or load_simulation(RunFolder(folder).config)).run
        more.append(MlflowSink(mlflow, run.name, flatten(run)))
    if not (sys.stderr.isatty() and (json or sys.stdout.isatty())):
        more.append(_Lines(folder, err=json))
    with ExitStack() as stack:
        stack.enter_context(writing_events(folder, more))
        if open_:
            from cdtl_core.report.live import open_page  # loads the charts

            url = stack.enter_context(open_page(folder))
            typer.echo(f"The run's page: {url} (report.html in {folder} after its end)", err=True)
        yield


class _Lines:
    """Print one line for each round and each end of a method that the journal did not hold before."""

    def __init__(self, folder: Path, *, err: bool) -> None:
        self._folder, self._err = folder, err
        self._before = {(one.method, one.number, one.seconds) for one in read_entries(RunFolder(folder).journal)}
        self._rounds = 0

    def add_round(self, method: str, one: Round) -> None:
        """Print a round."""
        self._rounds = self._rounds or load_simulation(RunFolder(self._folder).config).run.federation.rounds
        self._print(method_name(method), one, round_lines(one, self._rounds))

    def add_ending(self, method: str, ending: Ending, number: int) -> None:
        """Print an end.

        Args:
            method: The method.
            ending: Figures of the end.
            number: Number of rounds.
        """
        self._print(f"{method_name(method)}, {number} rounds", ending, ending_lines(ending))

    def close(self) -> None:
        """Do nothing: each line is written at once."""

    def _print(self, what: str, one: Round | Ending, lines: list[str]) -> None:
        if (one.method, one.number, one.seconds) not in self._before:
            text = "\n  ".join(lines)
            typer.echo(f"{what}: {text}", err=self._err)


@contextmanager
def writing_events(folder: Path, more: list[Sink] | None = None) -> Iterator[None]:
    """Write TensorBoard's event files into a run directory if that library is installed; else say so once."""
    sinks = list(more or ())
    if has_tensorboard():
        sinks.append(TensorBoardSink(folder))
    elif sys.stderr.isatty():
        typer.echo("No TensorBoard files are written: pip install 'cdtl[tensorboard]'.", err=True)
    with following(folder, sinks):
        yield
