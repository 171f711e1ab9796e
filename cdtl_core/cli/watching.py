"""Live views of a run: browser, TensorBoard, MLflow."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer

from cdtl_core.config import SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import flatten, load_simulation
from cdtl_core.report.live import open_page
from cdtl_core.report.tracking import MlflowSink, Sink, TensorBoardSink, following, has_tensorboard

__all__ = ["watching", "writing_events"]


@contextmanager
def watching(folder: Path, settings: SimulationConfig | None, *, open_: bool, mlflow: str) -> Iterator[None]:
    """Show a simulation's rounds in the chosen tools while the block runs.

    Args:
        folder: The run directory.
        settings: Settings of the run.
        open_: Open the page in a browser.
        mlflow: Tracking server or folder; None: no MLflow.

    Raises:
        ConfigError: A library for it is missing.
    """
    more: list[Sink] = []
    if mlflow:
        run = (settings or load_simulation(RunFolder(folder).config)).run
        more.append(MlflowSink(mlflow, run.name, flatten(run)))
    with ExitStack() as stack:
        stack.enter_context(writing_events(folder, more))
        if open_:
            url = stack.enter_context(open_page(folder))
            typer.echo(f"The run's page: {url} (report.html in {folder} after its end)", err=True)
        yield


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
