"""Worker processes for a list of tasks, one torch thread each, that end with the process that started them."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

import torch

from cdtl_core.errors import CdtlError

__all__ = ["work_through"]

Task = TypeVar("Task")


def work_through(tasks: Sequence[Task], work: Callable[[Task], None], *, jobs: int) -> Generator[Task]:
    """Run `work` on every task; yield each task when it is done, in the order of their ends.

    With one job the work runs in this process. Otherwise each of `jobs` spawned processes takes the next task when it
    is free. All processes have ended when this generator has, and they end at once if this process is killed.

    Args:
        tasks: The tasks; they and `work` are sent to the processes.
        work: A function of a module.
        jobs: Number of processes.

    Raises:
        CdtlError: An error of `work`, or a process ended before its task; unfinished tasks are given up.
    """
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            with _one_thread():
                work(task)
            yield task
        return
    with _crew(min(jobs, len(tasks)), work) as crew:
        left = list(reversed(tasks))
        busy: dict[Connection, Task] = {}
        for connection in crew:
            busy[connection] = _give(connection, left)
        while busy:
            ready = wait(list(busy))
            for connection in [one for one in busy if one in ready]:
                _hear(connection, crew[connection])
                yield busy.pop(connection)
                if left:
                    busy[connection] = _give(connection, left)


@contextmanager
def _crew(jobs: int, work: Callable[[Task], None]) -> Iterator[dict[Connection, SpawnProcess]]:
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


def _hear(connection: Connection, process: SpawnProcess) -> None:
    """Receive the end of a task; raises the error it ended with."""
    try:
        error = connection.recv()
    except EOFError:
        process.join(timeout=10)
        raise CdtlError(
            f"a process of the study ended with exit code {process.exitcode}: free memory or lower --jobs, then "
            "continue with --resume."
        ) from None
    if error is not None:
        raise error


def _serve(connection: Connection, work: Callable[[Task], None]) -> None:
    """Work until the other process closes the pipe, or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process gets it too, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(_done(work, task))


def _done(work: Callable[[Task], None], task: Task) -> Exception | None:
    try:
        work(task)
    except CdtlError as error:
        return type(error)(str(error))
    except Exception:
        return RuntimeError(traceback.format_exc())
    return None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
