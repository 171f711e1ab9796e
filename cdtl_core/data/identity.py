"""Keyed hashes of identifiers of patients, studies and images; the key is created at the site and stays there."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cdtl_core.errors import DataError
from cdtl_core.system.durable import replace_bytes, sync_folder, unwritable

__all__ = ["KEY_FILE", "hashed_uid", "load_key", "pseudonym"]

KEY_FILE = "patient.key"
_KEY_BYTES = 32


def load_key(folder: Path) -> bytes:
    """Return the site's key, created on first use and readable by its owner only.

    Raises:
        DataError: The key file is damaged.
        CheckpointError: The disk is full or read-only.
    """
    path = folder / KEY_FILE
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise DataError(f"the key {path} is damaged: restore it from the site's backup; without it the splits change.")
    return key


def _make_key(path: Path) -> None:
    """Create the key atomically; processes that do so at the same time get the same key."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        replace_bytes(draft, secrets.token_bytes(_KEY_BYTES), mode=0o600)
        with suppress(FileExistsError):
            os.link(draft, path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def pseudonym(key: bytes, patient: str) -> str:
    """Return sixteen hex digits for a patient, valid at this site only; guesses cannot be tested without the key."""
    return hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:16]


def hashed_uid(key: bytes, uid: str) -> str:
    """Return a DICOM UID in place of a real one, the same for the same UID at this site only."""
    digest = hmac.new(key, f"uid {uid}".encode(), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
