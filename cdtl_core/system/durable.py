"""Durable file writes: a kill at any moment leaves the old content or the new, never half of either."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdtl_core.errors import CheckpointError

__all__ = [
    "LOCK_FILE",
    "append_bytes",
    "append_line",
    "disk_fault",
    "file_hash",
    "locked",
    "one_at_a_time",
    "publish_folder",
    "replace_bytes",
    "replace_file",
    "replace_json",
]
__all__ += ["sync_folder", "unwritable"]

_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Faults of a disk, or of the system, that gives no file a second name."""
LOCK_FILE = ".lock"
"""File in a folder that a process keeps locked while it uses the folder."""


def replace_bytes(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write `content` to `path` atomically and durably (write a draft, fsync, rename, fsync the folder).

    The file has the permissions `mode` less the umask from its first byte on: 0o600 for secrets.

    Args:
        path: The file.
        content: Its new content.
        mode: Permissions of the file.

    Raises:
        CheckpointError: The disk is full or read-only, or the path is a folder.
    """
    with _draft_of(path) as draft:
        _write(draft, content, mode)


def replace_file(path: Path, source: Path) -> None:
    """Give `path` the content of the durable file `source`: as a second name of it where the disk allows that.

    Both stay what they are when the other is replaced. Neither may be changed in place.

    Raises:
        CheckpointError: As of `replace_bytes`, or `source` cannot be read.
    """
    with contextlib.suppress(OSError):
        if path.samefile(source):
            return
    with _draft_of(path) as draft:
        try:
            os.link(source, draft)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _write(draft, source.read_bytes(), 0o666)


def _write(draft: Path, content: bytes, mode: int) -> None:
    """Write a new file durably."""
    with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """Yield the name of a draft, which then takes the place of `path` if the block has made it.

    Raises:
        CheckpointError: The disk is full or read-only, or the path is a folder.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)  # left by a killed process, perhaps with wider permissions
        yield draft
        os.replace(draft, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a path that cannot be written."""
    return CheckpointError(
        f"{path} cannot be written ({error.strerror}): check the path, its permissions and the free space."
    )


def disk_fault(error: OSError) -> CheckpointError:
    """Return the error for a disk fault in any of several files."""
    return unwritable(Path(str(error.filename or "a file")), error)


def replace_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    replace_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def append_line(path: Path, line: str) -> None:
    """Append one line and make it durable; a kill can tear the last line only.

    Raises:
        CheckpointError: The disk is full or read-only; the line is not in the file.
    """
    try:
        append_bytes(path, f"{line}\n".encode())
    except OSError as error:
        raise unwritable(path, error) from None


def append_bytes(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Append `content` to a file, which is made if it does not exist.

    Args:
        path: Of the file.
        content: Written whole: on a fault, what was written of it is removed again.
        sync: Make it durable before returning.

    Raises:
        OSError: The disk is full or read-only.
    """
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise


def publish_folder(draft: Path, target: Path) -> None:
    """Move the finished folder `draft` to `target`; an older `target` is removed first."""
    for file in draft.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(draft)
    if target.exists():
        shutil.rmtree(target)
    os.replace(draft, target)
    sync_folder(target.parent)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path, *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Lock a folder for this process.

    Args:
        folder: Made if it does not exist.
        wait: Wait until another process releases it, instead of raising.
        shared: Let other processes that ask for a shared lock in too.

    Raises:
        CheckpointError: Another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK_FILE, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be used ({error.strerror}): check its permissions and the free space, or choose another "
            "folder."
        ) from None
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise CheckpointError(
                f"the folder {folder} is in use by another cdtl process: wait for it or choose another folder."
            ) from None
        yield


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process or thread is inside such a block about this folder; nothing is written for it.

    Raises:
        CheckpointError: The folder does not exist or cannot be read.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be used ({error.strerror}): check its path and permissions.") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make additions, renames and removals in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
