"""The process that speaks to Ray: it runs the tasks that it is given, and returns their results.

It is a process of its own because Ray's core ends the process in which it loses its node or its head, without an
exception. `RayCrew` sees that as the end of a pipe. Through the pipe come ``("work", function)``,
``("task", number, value)`` and ``("end",)``; back go ``("joined",)``, ``("ready", nodes, places)``,
``("done", number, result, error)`` and ``("failed", kind, sentence)``.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cdtl_core.config import ClusterConfig
from cdtl_core.errors import CdtlError, ConfigError, FederationError
from cdtl_core.simulation.cluster.nodes import (
    Demand,
    check_nodes,
    fault_here,
    last_line,
    no_room,
    on_node,
    places_on,
    removal_of,
)
from cdtl_core.simulation.crew import end_with_parent, outcome_of

__all__ = ["Connect", "serve"]

_POLL_S, _LOOK_S = 0.05, 2.0
_HEAD_S = 20.0
"""How long the head may be silent. Ray itself would wait for a minute and then end the process."""
_PLACE_S = 60.0
"""How long a cluster may be without any node that has room for a task, once it had one."""
_RETRIES = 5
"""How often a task is started again after its node or process was lost."""


@dataclass(frozen=True)
class Connect:
    """How to connect.

    Attributes:
        address: ``host:port`` of the head, or ``auto``.
        needs: Resources of a task.
        demand: What a node must have.
        threads: Torch threads of a task.
        own_folder: Name of the temporary folder that the tasks make on each node, which is removed at the end.
    """

    address: str
    needs: ClusterConfig
    demand: Demand
    threads: int
    own_folder: str


def serve(connection: Connection, connect: Connect, log: str) -> None:
    """Work until the other process closes the pipe, or ends.

    Args:
        connection: The pipe.
        connect: How to connect.
        log: File for the output of Ray.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process gets it too, and ends this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    _redirect(log)
    try:
        driver = _Driver(connect)
        connection.send(("joined",))
        driver.serve(connection)
    except CdtlError as error:
        connection.send(("failed", type(error), str(error)))
    except EOFError:
        pass
    except Exception as error:  # Ray's own, of many kinds; its text is in the log
        logging.getLogger(__name__).exception("the connection to Ray failed")
        connection.send(("failed", FederationError, f"the Ray cluster failed: {last_line(error)}."))
    os._exit(0)  # Ray's clean-up waits for a head that is lost


class _Driver:
    def __init__(self, connect: Connect) -> None:
        import ray

        self._connect = connect
        self._ray: Any = ray
        self._open: dict[Any, int] = {}
        self._work: Any = None
        self._looked = self._seen = self._roomy = time.monotonic()
        _join(connect.address)
        self._head = _host_and_port(ray.get_runtime_context().gcs_address)
        needs = connect.needs
        options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_retries": _RETRIES}
        self._run = self._ray.remote(**options)(run_task)

    def serve(self, connection: Connection) -> None:
        nodes = self._roomy_nodes()
        if not nodes:
            raise ConfigError(no_room(self._ray.nodes(), self._connect.needs))
        check_nodes(self._ray, nodes, self._connect.demand)
        connection.send(("ready", len(nodes), sum(places_on(node, self._connect.needs) for node in nodes)))
        while True:
            while connection.poll(0 if self._open else _POLL_S):
                if not self._hear(connection.recv()):
                    self._remove_folders()
                    self._ray.shutdown()
                    return
            for number, result, error in self._finished():
                connection.send(("done", number, result, error))
            self._look()

    def _hear(self, message: tuple[Any, ...]) -> bool:
        what, *values = message
        if what == "work":
            self._work = self._ray.put(values[0])
        elif what == "task":
            number, value = values
            ref = self._run.remote(self._connect.demand, self._connect.threads, self._work, value)
            self._open[ref] = number
        return bool(what != "end")

    def _finished(self) -> list[tuple[int, Any, Exception | None]]:
        if not self._open:
            return []
        ready, _ = self._ray.wait(list(self._open), timeout=_POLL_S)
        return [(self._open.pop(ref), *self._result(ref)) for ref in ready]

    def _result(self, ref: Any) -> tuple[Any, Exception | None]:
        try:
            result, error = self._ray.get(ref)
            return result, error
        except self._ray.exceptions.RayError as error:
            return None, FederationError(_lost_task(error, self._ray.exceptions))

    def _look(self) -> None:
        """Look now and then whether the head answers and a node has room; raise an error if not for too long."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        if not _answers(self._head):
            if now - self._seen > _HEAD_S:
                raise FederationError(
                    f"the head of the Ray cluster at {self._head[0]}:{self._head[1]} has not answered for "
                    f"{_HEAD_S:.0f} s: start the cluster again."
                )
            return
        self._seen = now
        if not self._open or self._roomy_nodes():
            self._roomy = now
        elif now - self._roomy > _PLACE_S:
            raise FederationError(no_room(self._ray.nodes(), self._connect.needs))

    def _roomy_nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if places_on(node, self._connect.needs)]

    def _remove_folders(self) -> None:
        """Remove the temporary folder on every node that is left."""
        if self._connect.own_folder:
            remove = removal_of(self._connect.own_folder)
            refs = [on_node(self._ray, node, remove).remote() for node in self._roomy_nodes()]
            self._ray.wait(refs, num_returns=len(refs), timeout=10)


def run_task(demand: Demand, threads: int, work: Callable[[Any], Any], value: Any) -> tuple[Any, Exception | None]:
    """Run one task on a node; returns its result or the error it ended with.

    Args:
        demand: What the node must have.
        threads: Torch threads.
        work: The function.
        value: Its argument.
    """
    import torch

    if fault := fault_here(demand):
        return None, FederationError(f"node {socket.gethostname()} {fault}")
    torch.set_num_threads(threads)
    return outcome_of(work, value)


def _join(address: str) -> None:
    """Connect to the cluster.

    Raises:
        FederationError: Nothing answers, or Ray refuses this machine.
    """
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise FederationError(
            f"the Ray cluster at {address} does not take this machine as its driver ({last_line(error)}): run cdtl on "
            "a node of the cluster, with the same versions of Ray and Python."
        ) from error


def _lost_task(error: Exception, kinds: Any) -> str:
    if isinstance(error, kinds.RayTaskError):
        return f"a node of the cluster cannot run a task: {last_line(error)}"
    return (
        f"a task was lost {_RETRIES + 1} times with its process or node ({last_line(error)}): give each more memory, "
        "for example by a larger cluster.cpus, then continue with --resume."
    )


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _answers(head: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(head, timeout=_LOOK_S):
            return True
    except OSError:
        return False


def _redirect(log: str) -> None:
    """Send all output of this process, also that of Ray's core, to a file."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
