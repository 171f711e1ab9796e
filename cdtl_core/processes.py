"""Programs that run together and end together, also when the process that started them is killed.

A `ProcessGroup` is one Unix process group, and outside it a keeper: a shell that waits on a pipe whose other end this
process holds. When this process ends, however it ends, the pipe closes and the keeper kills the group, with whatever
its programs have started in turn.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ProcessGroup", "free_port"]

_POLL_S = 0.02
_LARGE = 20_000_000


class ProcessGroup:
    """Programs in one process group.

    Args:
        env: Of every program.
        folder: Where they run.
        farewell: Shell line to run after the group has been killed, e.g. to remove a scratch folder.
    """

    def __init__(self, env: Mapping[str, str], folder: Path, *, farewell: str = ":") -> None:
        self._env, self._folder = dict(env), folder
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._first = self._shell("exec cat")
        self._keeper = self._shell(f"cat > /dev/null\nkill -KILL -{self._first.pid}\n{farewell}")

    @property
    def number(self) -> int:
        """For programs that are started elsewhere and shall end with these."""
        return self._first.pid

    def start(self, name: str, command: Sequence[str], log: Path) -> None:
        """Start a program; what it prints is appended to `log`, or to a new one if that has grown large."""
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LARGE:
            log.replace(log.with_name(f"{log.name}.1"))
        with open(log, "ab", buffering=0) as file:
            self._programs[name] = subprocess.Popen(  # noqa: S603
                list(command), env=self._env, cwd=self._folder, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, process_group=self._first.pid,
            )  # fmt: skip

    def ended(self) -> dict[str, int]:
        """Programs that have ended, with their exit codes; the keeper is one."""
        programs = {**self._programs, "keeper": self._keeper}
        return {name: code for name, program in programs.items() if (code := program.poll()) is not None}

    def pids(self) -> dict[str, int]:
        """The programs' process numbers."""
        return {name: program.pid for name, program in self._programs.items()}

    def stop(self, *, patience_s: float = 5.0) -> None:
        """Ask every program to end, the last started first; what is left after a while is killed, its children too."""
        for program in reversed(self._programs.values()):
            if program.poll() is None:
                program.terminate()
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(program.poll() is None for program in self._programs.values()):
            time.sleep(_POLL_S)
        self.kill()

    def kill(self) -> None:
        """Kill the whole group and see it gone."""
        self._signal(signal.SIGKILL)
        for program in self._programs.values():
            program.wait()
        for shell in (self._first, self._keeper):
            shell.communicate()
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and self._signal(0):
            time.sleep(_POLL_S)

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; False if nobody is left in it."""
        try:
            os.killpg(self._first.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return False
        return True

    def _shell(self, script: str) -> subprocess.Popen[bytes]:
        """A shell in a group of its own that can tell from its input when this process ends."""
        return subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", script], env=self._env, cwd=self._folder, process_group=0,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def free_port() -> int:
    """A port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
