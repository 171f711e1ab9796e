"""Processes that work through a list of tasks: those of this machine, one torch thread each.

A `Crew` hides where the work is done. `Processes` are on this machine and end with the process that started them;
`cluster.crew.RayCrew` is a Ray cluster.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol, TypeVar

import torch

from cdtl_core.errors import CdtlError
from cdtl_core.models.pieces import one_thread

__all__ = ["Crew", "Processes", "end_with_parent", "outcome_of"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class Crew(Protocol):
    """What works through tasks."""

    @property
    def own_folder(self) -> str:
        """Name of a folder among the temporary files of each machine, which is removed when the crew ends; or empty."""

    def work_through(self, tasks: Sequence[Task], work: Callable[[Task], Result]) -> Generator[tuple[Task, Result]]:
        """Run `work` on every task; yield each task with its result when it is done, in the order of their ends.

        Args:
            tasks: The tasks; they and `work` are sent to the processes.
            work: A function of a module, also with arguments by `functools.partial`.

        Raises:
            CdtlError: An error of `work`, or a process ended before its task; unfinished tasks are given up.
        """


@dataclass(frozen=True)
class Processes:
    """Processes of this machine.

    With one job the work runs in this process. Otherwise each of `jobs` spawned processes takes the next task when it
    is free. All processes have ended when the generator has, and they end at once if this process is killed.
    """

    jobs: int
    own_folder: str = ""

    def work_through(self, tasks: Sequence[Task], work: Callable[[Task], Result]) -> Generator[tuple[Task, Result]]:
        """As `Crew.work_through`."""
        if self.jobs == 1 or len(tasks) < 2:
            for task in tasks:
                with one_thread():
                    result = work(task)
                yield task, result
            return
        with _crew(min(self.jobs, len(tasks)), work) as crew:
            left = list(reversed(tasks))
            busy: dict[Connection, Task] = {}
            for connection in crew:
                busy[connection] = _give(connection, left)
            while busy:
                ready = wait(list(busy))
                for connection in [one for one in busy if one in ready]:
                    result = _hear(connection, crew[connection])
                    yield busy.pop(connection), result
                    if left:
                        busy[connection] = _give(connection, left)


@contextmanager
def _crew(jobs: int, work: Callable[[Task], Result]) -> Iterator[dict[Connection, SpawnProcess]]:
    context = multiprocessing.get_context("spawn")
    crew: dict[Connection, SpawnProcess] = {}
    try:
        for _ in range(jobs):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, work), daemon=True)
            process.start()
            there.close()
            crew[here] = process
        yield crew
    finally:
        for connection, process in crew.items():
            process.kill()
            process.join()
            process.close()
            connection.close()


def _give(connection: Connection, left: list[Task]) -> Task:
    connection.send(left[-1])
    return left.pop()


def _hear(connection: Connection, process: SpawnProcess) -> Any:
    """Receive the result of a task; raises the error it ended with."""
    try:
        result, error = connection.recv()
    except EOFError:
        process.join(timeout=10)
        raise CdtlError(f"a process of the study {_end_in_words(process.exitcode)}") from None
    if error is not None:
        raise error
    return result


def _end_in_words(code: int | None) -> str:
    """Return how a process ended and what helps; a negative exit code is that of a signal."""
    name = signal.Signals(-code).name if code and -code in {*signal.Signals} else f"exit code {code}"
    if name == signal.SIGKILL.name:
        return (
            f"was ended by {name}, as the system does when memory is short: free memory or lower --jobs, then continue "
            "with --resume."
        )
    return f"ended with {name}: its last lines above say where; correct the cause, then continue with --resume."


def _serve(connection: Connection, work: Callable[[Task], Result]) -> None:
    """Work until the other process closes the pipe, or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process gets it too, and ends this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
    torch.set_num_threads(1)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(outcome_of(work, task))


def outcome_of(work: Callable[[Task], Result], task: Task) -> tuple[Result | None, Exception | None]:
    """Return the result of a task, or the error it ended with, in a form that can be sent to another process."""
    try:
        return work(task), None
    except CdtlError as error:
        return None, type(error)(str(error))
    except Exception:
        return None, RuntimeError(traceback.format_exc())


def end_with_parent() -> None:
    """End this process when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
