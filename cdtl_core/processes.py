"""Programs that run together and end together, also when the process that started them is killed.

A `ProcessGroup` is one Unix process group with a keeper: a shell that waits on a pipe whose other end this process
holds. When this process ends, however it ends, the pipe closes and the keeper kills the group, with whatever its
programs have started in turn.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ProcessGroup", "free_port"]

_POLL_S = 0.02


class ProcessGroup:
    """Programs in one process group.

    Args:
        env: Of every program.
        folder: Where they run.
        farewell: Shell line to run before the group is killed, e.g. to remove a scratch folder.
    """

    def __init__(self, env: Mapping[str, str], folder: Path, *, farewell: str = ":") -> None:
        self._env, self._folder = dict(env), folder
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._keeper = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", f"cat > /dev/null\n{farewell}\nkill -KILL 0"],
            env=self._env, cwd=folder, stdin=subprocess.PIPE, process_group=0,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, name: str, command: Sequence[str], log: Path) -> None:
        """Start a program; what it prints is appended to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab", buffering=0) as file:
            self._programs[name] = subprocess.Popen(  # noqa: S603
                list(command), env=self._env, cwd=self._folder, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, process_group=self._keeper.pid,
            )  # fmt: skip

    def ended(self) -> dict[str, int]:
        """Programs that have ended, with their exit codes; the keeper's own end is named too."""
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
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            os.killpg(self._keeper.pid, signal.SIGKILL)
        for program in (*self._programs.values(), self._keeper):
            program.wait()
        if self._keeper.stdin:
            self._keeper.stdin.close()
        deadline = time.monotonic() + 2.0
        with contextlib.suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < deadline:
                os.killpg(self._keeper.pid, 0)
                time.sleep(_POLL_S)


def free_port() -> int:
    """A port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
