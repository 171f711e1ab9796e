"""Several Ray nodes on this machine, as `ray start` makes them: for tests and the benchmark of a cluster."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cdtl_core.errors import CdtlError
from cdtl_core.system.processes import free_port
from cdtl_core.system.shipped import bundle_root

__all__ = ["LIKE_THE_DRIVER", "Raylets", "wait_until"]

LIKE_THE_DRIVER = {"PYTHONPATH": str(bundle_root()), "OMP_NUM_THREADS": "1"}
"""Environment of nodes and of commands: this checkout."""


class Raylets:
    """A Ray cluster of real nodes on this machine, ended by their process numbers.

    Args:
        folder: For their logs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[list[psutil.Process]] = []
        self._commands: list[subprocess.Popen[bytes]] = []

    def add(self, cores: int = 1, around: str = "exec", **env: str) -> list[psutil.Process]:
        """Start one more node and wait for it; the first is the head.

        Args:
            cores: Its CPUs.
            around: What the shell does with its command.
            env: Added to its environment.
        """
        place = ["--address", self.address]
        if not self.nodes:
            place = ["--head", "--port", self.address.rpartition(":")[2], "--include-dashboard", "false"]
        ports = ["--node-ip-address", "127.0.0.1", "--min-worker-port", "0", "--max-worker-port", "0"]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", *place, *ports, "--num-cpus", str(cores)]
        log = self._folder / f"node-{len(self.nodes)}.log"
        environment = {**os.environ, **LIKE_THE_DRIVER, "RAY_USAGE_STATS_ENABLED": "0", **env}
        with open(log, "w") as file:
            node = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", f"{around} {shlex.join([*words, '--block'])}"],
                cwd="/", env=environment, stdout=file, stderr=file,
            )  # fmt: skip
        self._commands.append(node)
        wait_until(lambda: "Ray runtime started" in log.read_text() or node.poll() is not None)
        if node.poll() is not None:
            raise CdtlError(f"ray start failed: {log.read_text()}")
        own = psutil.Process(node.pid)
        found = [*own.children(recursive=True), own]
        self.nodes.append(found)
        return found

    def kill(self, node: Sequence[psutil.Process]) -> None:
        """Kill all processes of a node, as a power cut would."""
        workers = [child for process in node if process.is_running() for child in process.children(recursive=True)]
        for process in {*node, *workers}:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(node, timeout=10)

    def end(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            self.kill(node)
        for command in self._commands:
            command.wait()


def wait_until(holds: Callable[[], bool], timeout_s: float = 200.0) -> None:
    """Wait until something holds.

    Raises:
        CdtlError: It does not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise CdtlError(f"waited {timeout_s:.0f} s in vain.")
        time.sleep(0.05)
