"""Scratch folders that hold keys: they end with their owner, or at the next start if the owner was killed.

Each folder holds a file that its owner keeps locked. The system releases the lock when the process ends for any reason,
so a folder whose lock is free has no owner. This also holds between containers that share a folder for temporary files,
where process numbers do not tell.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cdtl_core.errors import CheckpointError
from cdtl_core.system.durable import LOCK_FILE, locked, unwritable

__all__ = ["scratch_folder"]

_PREFIX = "cdtl-"


@contextmanager
def scratch_folder(kind: str = "") -> Iterator[Path]:
    """Make a folder for temporary files that only this account can enter, and remove it at the end of the block.

    Folders of this account whose owners were killed are removed first.

    Args:
        kind: Part of its name.

    Raises:
        CheckpointError: The disk is full or read-only.
    """
    _remove_left()
    try:
        new = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}{kind}"))
    except OSError as error:
        raise unwritable(Path(tempfile.gettempdir()), error) from None
    folder = new.with_name(new.name[1:])
    try:
        with locked(new):
            try:
                new.rename(folder)  # only now, because a folder without a lock would be removed
            except OSError as error:
                raise unwritable(folder, error) from None
            yield folder
    finally:
        for left in (new, folder):
            shutil.rmtree(left, ignore_errors=True)


def _remove_left() -> None:
    """Remove this account's scratch folders without an owner; no link is followed, and no other folder is touched."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(CheckpointError, OSError):
            if _is_ours(folder, stat.S_ISDIR) and _is_ours(folder / LOCK_FILE, stat.S_ISREG):
                with locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_ours(path: Path, kind: Callable[[int], bool]) -> bool:
    found = path.lstat()
    return found.st_uid == os.geteuid() and kind(found.st_mode)
