"""Rounds in other tools: TensorBoard event files in the run directory, and MLflow.

A thread reads ``rounds.jsonl`` as it grows; the tools get nothing else.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cdtl_core.config.folders import RunFolder
from cdtl_core.errors import ConfigError
from cdtl_core.federation.journal import Ending, Journal, Round, read_journal
from cdtl_core.system.foreign import get_logger

__all__ = ["MlflowSink", "Sink", "TensorBoardSink", "following", "has_tensorboard", "tell"]

_LOOK_S = 1.0
_NAMES = {
    "val_loss": "loss/validation",
    "train_loss": "loss/training",
    "val_auroc": "auroc/validation",
    "seconds": "time/seconds",
    "bytes_sent": "bytes/sent",
    "bytes_received": "bytes/received",
}
_log = get_logger("cdtl.page")


class Sink(Protocol):
    """A tool that receives rounds."""

    def add_round(self, method: str, one: Round) -> None:
        """Receive an ended round."""

    def add_ending(self, method: str, ending: Ending, number: int) -> None:
        """Receive the end of a method.

        Args:
            method: The method.
            ending: Figures of the end.
            number: Number of rounds.
        """

    def close(self) -> None:
        """Finish writing."""


def has_tensorboard() -> bool:
    """Whether event files can be written."""
    return find_spec("tensorboardX") is not None


class TensorBoardSink:
    """Write ``DIR/tensorboard/<method>/<site>``; files of an earlier start are replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writers: dict[tuple[str, str], Any] = {}

    def add_round(self, method: str, one: Round) -> None:
        """Write one point per figure."""
        for site, figures in one.sites.items():
            for name, value in _named(figures).items():
                self._writer(method, site).add_scalar(name, value, one.number)

    def add_ending(self, method: str, ending: Ending, number: int) -> None:
        """Write the figure on test patients.

        Args:
            method: The method.
            ending: Figures of the end.
            number: Number of rounds.
        """
        for site, end in ending.sites.items():
            if end.get("test_auroc") is not None:
                self._writer(method, site).add_scalar("auroc/test", end["test_auroc"], number)

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, method: str, site: str) -> Any:
        from tensorboardX import SummaryWriter

        key = (method, site)
        if not self._writers:
            shutil.rmtree(self._folder, ignore_errors=True)
        if key not in self._writers:
            folder = self._folder / method / site
            self._writers[key] = SummaryWriter(str(folder), flush_secs=5, write_to_disk=True)
        return self._writers[key]


class MlflowSink:
    """Write one MLflow run per method, to a tracking server or a folder: settings as parameters, figures as metrics."""

    def __init__(self, uri: str, experiment: str, settings: Mapping[str, object]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise ConfigError("--mlflow needs the package mlflow: pip install 'cdtl[mlflow]'.") from None
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)
        self._settings, self._runs = dict(settings), dict[str, str]()

    def add_round(self, method: str, one: Round) -> None:
        """Write one metric per site and figure."""
        for site, figures in one.sites.items():
            for name, value in _named(figures).items():
                self._client.log_metric(self._run(method), f"{site}/{name}", value, step=one.number)

    def add_ending(self, method: str, ending: Ending, number: int) -> None:
        """Write the figure on test patients.

        Args:
            method: The method.
            ending: Figures of the end.
            number: Number of rounds.
        """
        for site, end in ending.sites.items():
            if end.get("test_auroc") is not None:
                self._client.log_metric(self._run(method), f"{site}/auroc/test", end["test_auroc"], step=number)
        self._client.set_terminated(self._run(method))

    def close(self) -> None:
        """Do nothing: no data is buffered."""

    def _run(self, method: str) -> str:
        if method not in self._runs:
            run = self._client.create_run(self._experiment, run_name=method)
            self._runs[method] = run.info.run_id
            for key, value in self._settings.items():
                self._client.log_param(run.info.run_id, key, value)
        return self._runs[method]


@contextmanager
def following(folder: Path, sinks: Sequence[Sink]) -> Iterator[None]:
    """Send each round of the run in `folder` to the sinks while the block runs; a failing sink is dropped."""
    if not sinks:
        yield
        return
    end, told, open_ = threading.Event(), set[tuple[str, int]](), list(sinks)

    def follow() -> None:
        while not end.wait(_LOOK_S):
            tell(read_journal(RunFolder(folder).journal), open_, told)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
        end.set()
        thread.join()
        tell(read_journal(RunFolder(folder).journal), open_, told)
    finally:
        end.set()
        thread.join()
        for sink in open_:
            sink.close()


def tell(journals: Sequence[Journal], sinks: list[Sink], told: set[tuple[str, int]]) -> None:
    """Send the rounds that are new.

    Args:
        journals: Rounds by method.
        sinks: The tools; one that fails is removed.
        told: What was sent; updated.
    """
    for journal in journals:
        for one in journal.rounds:
            if (journal.method, one.number) not in told:
                told.add((journal.method, one.number))
                _each(sinks, lambda sink, j=journal, o=one: sink.add_round(j.method, o))
        if journal.ending and (journal.method, 0) not in told:
            told.add((journal.method, 0))
            number, ending = len(journal.rounds), journal.ending
            _each(sinks, lambda sink, j=journal, e=ending, n=number: sink.add_ending(j.method, e, n))


def _each(sinks: list[Sink], act: Any) -> None:
    for sink in list(sinks):
        try:
            act(sink)
        except Exception as error:  # an error of another program's library must not end a run
            _log.warning("%s gets no further rounds: %s", type(sink).__name__, error)
            sinks.remove(sink)


def _named(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {_NAMES[name]: value for name, value in figures.items() if name in _NAMES and value is not None}
