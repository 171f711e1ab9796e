"""Paths and sizes of the chained logs of a site and of a coordinator, and the log of approvals."""

import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path

from cdtl_core.system.chained import ChainedLog, LogFiles

__all__ = ["access_files", "approval_files", "egress_files", "record_approval", "server_logs", "site_logs"]

_MEGABYTE = 1 << 20


def approval_files(home: Path) -> LogFiles:
    """``HOME/logs/approvals.jsonl``: about half a kilobyte per decision, so 40 MB last longer than a site."""
    return LogFiles(home / "logs" / "approvals.jsonl", home / "heads" / "approvals.json", 8 * _MEGABYTE, 4)


def egress_files(home: Path) -> LogFiles:
    """``HOME/logs/egress.jsonl``, at most 40 MB in five files."""
    return LogFiles(home / "logs" / "egress.jsonl", home / "heads" / "egress.json", 8 * _MEGABYTE, 4)


def access_files(folder: Path) -> LogFiles:
    """``FOLDER/logs/access.log`` of a coordinator, at most 60 MB in six files."""
    return LogFiles(folder / "logs" / "access.log", folder / "heads" / "access.json", 10_000_000, 5)


def site_logs(home: Path) -> dict[str, LogFiles]:
    """All chained logs of a site, by name."""
    return {"approvals": approval_files(home), "egress": egress_files(home)}


def server_logs(folder: Path) -> dict[str, LogFiles]:
    """All chained logs of a coordinator, by name."""
    return {"access": access_files(folder)}


def record_approval(
    home: Path, kind: str, id: str, *, clock: Callable[[], float] = time.time, **fields: str | int | float
) -> None:
    """Log a decision about a run: time, kind, run, and the account that ran the command.

    The line is written before the approval. On a disk that fails (EIO) a decision may have two lines.

    Args:
        home: The site's folder.
        kind: ``approved`` (also for each further person), ``refused``, ``withdrawn`` or ``left``.
        id: Id of the approval; empty if the line is about all of them.
        clock: Seconds since 1970.
        fields: Further facts.

    Raises:
        CheckpointError: The disk is full or read-only; nothing was written.
    """
    told = {"time": round(clock(), 3), "kind": kind, "id": id, "account": _account(), **fields}
    ChainedLog(approval_files(home)).append(told)


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container the number may have no name
        return str(os.getuid())
