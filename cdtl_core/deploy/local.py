"""A coordinator and its sites as the real services on this machine, for rehearsals and trials.

Between hospitals a person compares fingerprints before a site is admitted. Here all folders belong to one account.
"""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.deploy.authority import make_coordinator
from cdtl_core.deploy.enrolling import enrol_site
from cdtl_core.deploy.enrolment import Enrolment
from cdtl_core.deploy.members import admit
from cdtl_core.deploy.participation import Part
from cdtl_core.deploy.runs import ENDED, RunState, load_run_state
from cdtl_core.deploy.server_config import ServerConfig
from cdtl_core.errors import FederationError
from cdtl_core.flower import flower_environment
from cdtl_core.system.processes import ProcessGroup, free_port
from cdtl_core.system.scratch import scratch_folder

__all__ = ["COORDINATOR", "LocalFederation", "await_end"]

COORDINATOR = "coordinator"
"""Name of the coordinator's service."""
_LOOK_S, _PATIENCE_S = 0.2, 20.0


class LocalFederation:
    """A coordinator in a new folder, on a free port of the loopback address, and the sites that it admitted."""

    def __init__(self, folder: Path) -> None:
        self.coordinator, self.port = RunFolder(folder).coordinator, free_port()
        self.homes: dict[str, Path] = {}
        server = ServerConfig(names=("localhost", "127.0.0.1"), host="127.0.0.1", port=self.port)
        make_coordinator(self.coordinator, server)

    @property
    def ca(self) -> Path:
        """The certificate of the coordinator's authority."""
        return self.coordinator / "tls" / "ca.crt"

    def admit(self, home: Path, config: RunConfig) -> Enrolment:
        """Enrol the site of a folder, and admit it at once."""
        enrolment = enrol_site(home, config)
        admit(self.coordinator, enrolment)
        self.homes[enrolment.site] = home
        return enrolment

    def command(self, name: str, part: Part = "all", port: int | None = None) -> list[str]:
        """Return the command that runs a service in the foreground.

        Args:
            name: `COORDINATOR` or a site.
            part: The part of a site.
            port: The port at which the site reaches the coordinator; None: the coordinator's own.
        """
        own = [sys.executable, "-m", "cdtl_core.cli.main"]
        if name == COORDINATOR:
            return [*own, "server", "start", str(self.coordinator)]
        address = ["--server", f"localhost:{port or self.port}", "--ca", str(self.ca)]
        return [*own, "site", "start", str(self.homes[name]), "--part", part, *address]

    @contextmanager
    def running(self, logs: Path, *remove: Path) -> Iterator[ProcessGroup]:
        """Run all services while the block runs; nothing of them is left after it, also if this process is killed.

        Args:
            logs: An existing folder; the output of each service goes to ``<name>.log``.
            remove: Further folders to remove if this process is killed.
        """
        with scratch_folder() as scratch:
            farewell = shlex.join(["rm", "-rf", *map(str, (scratch, *remove))])
            group = ProcessGroup(flower_environment({"TMPDIR": scratch}), logs, farewell=farewell)
            try:
                for name in (COORDINATOR, *self.homes):
                    group.start(name, self.command(name), logs / f"{name}.log")
                yield group
            finally:
                group.stop(patience_s=_PATIENCE_S)


def await_end(
    group: ProcessGroup, run: Path, logs: Path, *, look: Callable[[], object], limit_s: float = float("inf")
) -> RunState:
    """Wait until a run has ended; returns its state.

    Args:
        group: The services of a `LocalFederation`.
        run: The run's folder at the coordinator.
        logs: Folder of the services' logs.
        look: Called several times a second.
        limit_s: Longest wait, in seconds.

    Raises:
        FederationError: A service ended before the run, or the time is over; the sentence names it.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        state = load_run_state(run) or RunState()
        look()
        if state.status in ENDED:
            return state
        for name, code in group.ended().items():
            raise FederationError(
                f"the program of {name} ended before the run (exit code {code}): {_last_line(logs / f'{name}.log')}"
            )
        time.sleep(_LOOK_S)
    raise FederationError(f"the run took longer than {limit_s:.0f} s: use a faster machine or fewer images.")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")
