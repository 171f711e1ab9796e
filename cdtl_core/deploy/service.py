"""Common parts of both services: one per folder, a note of the process, a log, and an end on a signal."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cdtl_core.errors import CheckpointError, FederationError
from cdtl_core.system.durable import locked, replace_json
from cdtl_core.system.foreign import get_logger, read_json
from cdtl_core.system.rotating import RotatingLog
from cdtl_core.system.scratch import scratch_folder

__all__ = [
    "CONNECTING_S",
    "SERVICE_FILE",
    "Troubles",
    "is_running",
    "note_service",
    "require_running",
    "running_service",
]
__all__ += ["stop_service", "troubles_of"]

SERVICE_FILE = "service.json"
CONNECTING_S = 15.0
"""Time that a site's first attempt to connect takes, with the start of its programs."""
_log = get_logger("cdtl.deploy")


@contextmanager
def running_service(folder: Path) -> Iterator[tuple[threading.Event, Path]]:
    """Lock the folder, log to the terminal and ``logs/service.log``, and end on a signal.

    Yields:
        An event that is set by SIGTERM, SIGINT or SIGHUP, and a scratch folder that only the owner can enter.

    Raises:
        CheckpointError: Another service runs on this folder, or the disk is full or read-only.
    """
    end = threading.Event()
    with locked(folder), _logging(folder / "logs"), scratch_folder() as scratch:
        before = {number: signal.signal(number, lambda *_: end.set()) for number in _ENDINGS}
        try:
            note = {"pid": os.getpid(), "began": _began(os.getpid()), "scratch": str(scratch), "started": time.time()}
            replace_json(folder / SERVICE_FILE, note)
            yield end, scratch
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            with suppress(OSError):  # the note of an ended process is ignored
                (folder / SERVICE_FILE).unlink(missing_ok=True)


def note_service(folder: Path, **facts: object) -> None:
    """Add facts to the running service's ``service.json``."""
    replace_json(folder / SERVICE_FILE, {**read_json(folder / SERVICE_FILE), **facts})


class Troubles:
    """Notes in ``service.json`` which parts of a service do not run, for its status."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: Mapping[str, str] = {}

    def note(self, **parts: str) -> None:
        """Note the parts with a sentence; a part with an empty one runs. A full disk is tried again next time."""
        found = {name: why for name, why in parts.items() if why}
        if found != self._noted:
            with suppress(CheckpointError):
                note_service(self._folder, troubles=found)
                self._noted = found


def is_running(folder: Path) -> int:
    """Return the process number of the folder's service; 0 if none runs."""
    note = read_json(folder / SERVICE_FILE)
    pid = int(note.get("pid", 0))
    return pid if pid and _began(pid) == note.get("began") else 0


def troubles_of(folder: Path) -> dict[str, str]:
    """Return the parts of the folder's running service that do not run, and why; empty if all run."""
    found = read_json(folder / SERVICE_FILE).get("troubles") if is_running(folder) else None
    return {str(name): str(why) for name, why in found.items()} if isinstance(found, dict) else {}


def require_running(folder: Path, what: str, how: str) -> None:
    """Raise an error if the folder's service does not run.

    Args:
        folder: The folder.
        what: Name of the service, for the error.
        how: Command that starts it, for the error.

    Raises:
        FederationError: None runs.
    """
    if not is_running(folder):
        raise FederationError(f"the {what} does not run: start it with {how}, in another terminal or as a service.")


def stop_service(folder: Path, *, timeout_s: float = 30.0) -> bool:
    """End the folder's service; False if none runs.

    Raises:
        FederationError: It does not end in time.
    """
    pid = is_running(folder)
    if not pid:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    waited = threading.Event()
    for _ in range(int(timeout_s / 0.1)):
        if not is_running(folder):
            return True
        waited.wait(0.1)
    raise FederationError(f"process {pid} of {folder} did not end within {timeout_s:.0f} s: end it with kill -9 {pid}.")


def _began(pid: int) -> float | None:
    """Return the start time of a process, to distinguish it from a later one with its number; None if it ended."""
    try:
        return round(psutil.Process(pid).create_time(), 2)
    except psutil.Error:
        return None


_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _LogFile(logging.Handler):
    """A log file that later reports lines lost on a full disk."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._lines = RotatingLog(path, max_bytes=5_000_000)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self._lines.write(f"{self.format(record)}\n".encode())

    def close(self) -> None:
        """Close the file; reports lost lines once more."""
        self._lines.close()
        super().close()


@contextmanager
def _logging(folder: Path) -> Iterator[None]:
    file = _LogFile(folder / "service.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    screen = logging.StreamHandler()
    screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = _log.level
    for handler in (file, screen):
        _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.setLevel(level)
        for handler in (file, screen):
            _log.removeHandler(handler)
            handler.close()
