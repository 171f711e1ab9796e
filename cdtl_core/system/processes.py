"""Groups of programs that start and end together, also when the process that started them is killed.

A `ProcessGroup` is one Unix process group. Outside the group runs a keeper: a shell that waits on a pipe whose other
end this process holds. When this process ends for any reason, the pipe closes and the keeper kills the group with all
its children.

The output of a program goes through a pipe to a writer outside the group (`rotating.py`). The writer ends when nothing
is left to write, also after a kill of this process. This process holds the pipe open: if a writer is killed, the
program waits for the next one, which `ProcessGroup.ended` starts.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cdtl_core.system import rotating

__all__ = ["ProcessGroup", "free_port"]

_POLL_S = 0.02
_LAST_WORDS_S = 2.0


class ProcessGroup:
    """Programs in one process group.

    Args:
        env: Environment of every program.
        folder: Working folder.
        farewell: Shell line to run after the group has been killed, e.g. to remove a scratch folder.
    """

    def __init__(self, env: Mapping[str, str], folder: Path, *, farewell: str = ":") -> None:
        self._env, self._folder = dict(env), folder
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, _Log] = {}
        self._first = self._shell("exec cat")
        self._keeper = self._shell(f"cat > /dev/null\nkill -KILL -{self._first.pid}\n{farewell}")

    @property
    def number(self) -> int:
        """The number of the process group, for programs that are started elsewhere and must end with it."""
        return self._first.pid

    def start(self, name: str, command: Sequence[str], log: Path, *, keep: Sequence[int] = ()) -> None:
        """Start a program; its output and its children's is appended to `log`, which is rotated by size.

        Args:
            name: Used by `ended` and `pids`.
            command: The program and its arguments.
            log: A file.
            keep: File descriptors that the program inherits.
        """
        source, sink = os.pipe()
        try:
            self._logs[name] = _Log(log, source)
            self._programs[name] = subprocess.Popen(  # noqa: S603
                list(command), env=self._env, cwd=self._folder, stdin=subprocess.DEVNULL,
                stdout=sink, stderr=sink, process_group=self._first.pid, pass_fds=keep,
            )  # fmt: skip
        finally:
            os.close(sink)

    def ended(self) -> dict[str, int]:
        """Return the programs that have ended, with their exit codes; replaces writers that were killed."""
        programs = {**self._programs, "keeper": self._keeper}
        codes = {name: code for name, program in programs.items() if (code := program.poll()) is not None}
        for name, log in self._logs.items():
            log.finish() if name in codes else log.keep()
        return codes

    def pids(self) -> dict[str, int]:
        """Return the process numbers of the programs."""
        return {name: program.pid for name, program in self._programs.items()}

    def stop(self, *, patience_s: float = 5.0) -> None:
        """End all programs, the last started first; what is left after `patience_s` is killed with its children."""
        for program in reversed(self._programs.values()):
            if program.poll() is None:
                program.terminate()
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(program.poll() is None for program in self._programs.values()):
            time.sleep(_POLL_S)
        self.kill()

    def kill(self) -> None:
        """Kill the whole group and wait until it is gone."""
        self._signal(signal.SIGKILL)
        for program in self._programs.values():
            program.wait()
        for shell in (self._first, self._keeper):
            shell.communicate()
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and self._signal(0):
            time.sleep(_POLL_S)
        for log in self._logs.values():
            log.close()

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; False if the group is empty."""
        try:
            os.killpg(self._first.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
            return False
        return True

    def _shell(self, script: str) -> subprocess.Popen[bytes]:
        """Start a shell in its own group; it sees the end of this process as the end of its input."""
        return subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", script], env=self._env, cwd=self._folder, process_group=0,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


class _Log:
    """The writer of one program's log, and the end of the pipe that it reads from."""

    def __init__(self, path: Path, source: int) -> None:
        self._path, self._source, self._finished = path.absolute(), source, False
        self._writer = self._started()

    def keep(self) -> None:
        """Start another writer if this one was killed."""
        if self._writer.poll() is not None and not self._finished:
            self._writer = self._started()

    def finish(self) -> None:
        """Wait a moment until the last output of a program is in its log; its children may continue to print."""
        if not self._finished:
            self.keep()
            with suppress(subprocess.TimeoutExpired):
                self._writer.wait(_LAST_WORDS_S)
            self._finished = True

    def close(self) -> None:
        """Close the pipe after all programs have ended."""
        if self._source >= 0:
            self.finish()
            os.close(self._source)
            self._source = -1

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", rotating.__file__, str(self._path)], cwd="/", env={}, process_group=0,
            stdin=self._source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def free_port() -> int:
    """Return a free port on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
