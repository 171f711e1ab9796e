"""A Flower Grid over a Ray cluster: the ServerApp runs here, and each message to a site is a task of any node.

A site keeps its state in its folder, which all nodes see, so the next message may run on another node. A message whose
node is lost runs again and gets the same answer, as after a crash between hospitals.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flwr.app import Context, Message

from cdtl_core.config import ClusterConfig
from cdtl_core.errors import ConfigError
from cdtl_core.simulation.cluster.crew import RayCrew, joined
from cdtl_core.simulation.inprocess import InProcessGrid, set_identity
from cdtl_core.site.app import app
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.progress import report

__all__ = ["RayGrid", "connected_grids"]


@contextmanager
def connected_grids(address: str, needs: ClusterConfig, out: Path) -> "Iterator[Callable[..., RayGrid]]":
    """Connect to a cluster; yields the function that opens a grid of sites' folders with a run's settings.

    Args:
        address: ``host:port`` of the cluster's head, or ``auto``.
        needs: Resources of each site.
        out: The run directory, which every node must see.

    Raises:
        ConfigError: The settings ask to send the images.
        CdtlError: The cluster cannot be used; the sentence says why.
    """
    if needs.send_images:
        raise ConfigError(
            "cluster.send_images is true, but a simulation's sites write into their folders, so every node must see "
            "them: set it to false and put the run directory on a shared disk."
        )
    with joined(address, needs, out, needs_folder=True, threads=needs.cpus) as crew:
        yield partial(RayGrid, crew)


@dataclass(frozen=True)
class _Errand:
    """A message to a site, with the context that Flower gives its app."""

    message: Message
    context: Context


class RayGrid(InProcessGrid):
    """Nodes are folders of sites on a disk that all nodes of the cluster see.

    Args:
        crew: The cluster.
        homes: The sites' folders.
        run_config: The run's flat settings.
    """

    def __init__(self, crew: RayCrew, homes: Iterable[Path], run_config: Mapping[str, object]) -> None:
        super().__init__(app, [home.resolve() for home in homes], run_config)
        self._crew = crew
        self._names: dict[int, str] = {}
        crew.begin(answer)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages to the cluster."""
        names = list(super().push_messages(messages))
        for name in names:
            message = self._pending[name]
            number = self._crew.give(_Errand(message, self._contexts[message.metadata.dst_node_id]))
            self._names[number] = name
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the next reply to one of these messages; waits for it."""
        wanted = set(message_ids) & self._pending.keys()
        if not wanted:
            return []
        number, (reply, records) = self._crew.take()
        name = self._names.pop(number)
        home = self._contexts[self._pending.pop(name).metadata.dst_node_id].node_config["home"]
        report(site=Path(str(home)).name)
        for record in records:
            get_logger(record.name).handle(record)
        return [reply] if name in wanted else []


def answer(errand: _Errand) -> tuple[Message, list[logging.LogRecord]]:
    """Return a site's reply to a message, and the errors that it logged."""
    set_identity()
    keeping, logger = _Keeping(), get_logger("cdtl.site")
    logger.addHandler(keeping)
    try:
        return app(errand.message, errand.context), keeping.kept
    finally:
        logger.removeHandler(keeping)


class _Keeping(logging.Handler):
    """Keeps records of errors, in a form that can be sent to another process."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)  # puts the traceback into words
        sent = copy(record)
        sent.msg, sent.args, sent.exc_info = record.getMessage(), None, None
        self.kept.append(sent)
