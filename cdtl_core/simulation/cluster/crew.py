"""A Ray cluster as a crew: tasks that any of its nodes runs, and that start again elsewhere if their node is lost."""

import importlib.util
import multiprocessing
import re
import secrets
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from cdtl_core.config import ClusterConfig
from cdtl_core.errors import CdtlError, ConfigError, FederationError
from cdtl_core.simulation.cluster.driver import Connect, serve
from cdtl_core.simulation.cluster.nodes import Demand, versions
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.progress import report

__all__ = ["LOG_FILE", "RayCrew", "joined"]

Task = TypeVar("Task")
Result = TypeVar("Result")
LOG_FILE = "ray.log"
_CONNECT_S = 5.0
_JOIN_S = 60.0
_END_S = 15.0


class RayCrew:
    """A connection to a cluster, and the number of tasks that it is asked for.

    Args:
        connection: The pipe to the process that speaks to Ray.
        folder: The folder of the work, for errors.
        own_folder: Name of the temporary folder that tasks may make on each node.
    """

    def __init__(self, connection: Connection, folder: Path, own_folder: str) -> None:
        self._connection, self._folder, self._number = connection, folder, 0
        self.own_folder = own_folder

    def work_through(self, tasks: Sequence[Task], work: Callable[[Task], Result]) -> Generator[tuple[Task, Result]]:
        """As `cdtl_core.simulation.crew.Crew.work_through`."""
        self.begin(work)
        waiting = {self.give(task): task for task in tasks}
        while waiting:
            number, result = self.take()
            yield waiting.pop(number), result

    def begin(self, work: Callable[[Any], Any]) -> None:
        """Send the function that all later tasks call."""
        self._send("work", work)

    def give(self, task: object) -> int:
        """Send a task; returns its number."""
        self._number += 1
        self._send("task", self._number, task)
        return self._number

    def take(self) -> tuple[int, Any]:
        """Wait for the end of a task; returns its number and result.

        Raises:
            CdtlError: It ended with an error, or the cluster is lost.
        """
        _, number, result, error = self._receive()
        if error is not None:
            raise error
        return number, result

    def await_nodes(self) -> None:
        """Wait until the cluster has taken this machine and all nodes are checked.

        Raises:
            CdtlError: One lacks something, or the cluster cannot be used.
        """
        if not self._connection.poll(_JOIN_S):  # Ray waits for ever if another service listens there
            raise FederationError(
                f"no Ray cluster took this machine within {_JOIN_S:.0f} s: give the address of a running head, and run "
                "cdtl on a node of its cluster."
            )
        self._receive()
        _, nodes, places = self._receive()
        report(preparing=f"{nodes} nodes of the cluster, {places} tasks at a time")

    def end(self) -> None:
        """Tell the other process to remove what it left on the nodes."""
        with suppress(OSError):
            self._connection.send(("end",))

    def _send(self, *message: object) -> None:
        try:
            self._connection.send(message)
        except OSError:
            self._receive()  # it said why before it ended
            raise self._lost() from None

    def _receive(self) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = self._connection.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if message[0] == "failed":
            _, kind, sentence = message
            raise kind(self._resumable(sentence))
        return message

    def _lost(self) -> CdtlError:
        return FederationError(self._resumable("the connection to the Ray cluster is lost: start the cluster again."))

    def _resumable(self, sentence: str) -> str:
        return f"{sentence} Then continue with --resume {self._folder}." if self._number else sentence


@contextmanager
def joined(address: str, needs: ClusterConfig, folder: Path, *, needs_folder: bool, threads: int) -> Iterator[RayCrew]:
    """Connect to a cluster and check its nodes; the connection ends with the block.

    Args:
        address: ``host:port`` of the cluster's head, or ``auto``: the cluster of this machine.
        needs: Resources of each task.
        folder: The folder of the work, where ``ray.log`` is written.
        needs_folder: Whether every node must see `folder` under the same path.
        threads: Torch threads of a task.

    Raises:
        CdtlError: Ray is not installed, nothing answers, or a node lacks something; the sentence says which.
    """
    _check_address(address)
    folder = folder.resolve()
    own_folder, mark = f"cdtl-{secrets.token_hex(8)}", folder / f".on-cluster-{secrets.token_hex(8)}"
    if needs_folder:
        replace_bytes(mark, own_folder.encode())
    demand = Demand(versions(), str(mark) if needs_folder else "", own_folder)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    connect = Connect(address, needs, demand, threads, own_folder)
    process = context.Process(target=serve, args=(there, connect, str(folder / LOG_FILE)), daemon=True)
    process.start()
    there.close()
    crew = RayCrew(here, folder, own_folder)
    try:
        crew.await_nodes()
        yield crew
        crew.end()
        process.join(_END_S)
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()
        mark.unlink(missing_ok=True)


def _check_address(address: str) -> None:
    """Check the form of an address, and that something listens there: Ray itself waits for a minute."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed: install it with pip install 'flwr[simulation]'.")
    if address == "auto":
        return
    if not re.fullmatch(r"[^/:\s]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address):
        raise ConfigError(f"the address '{address}' is not HOST:PORT: give that of `ray start --head`, or auto.")
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            return
    except (OSError, OverflowError):
        raise FederationError(
            f"nothing answers at {address}: start a Ray cluster with `ray start --head`, or correct the address."
        ) from None
