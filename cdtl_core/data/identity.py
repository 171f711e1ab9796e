"""Patient identifiers leave memory only as keyed hashes; the key is made at the site and stays there."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cdtl_core.errors import DataError
from cdtl_core.system.durable import replace_bytes, sync_folder, unwritable

__all__ = ["KEY_FILE", "load_key", "pseudonym"]

KEY_FILE = "patient.key"
_KEY_BYTES = 32


def load_key(folder: Path) -> bytes:
    """The site's key, made on first use; readable by its owner only.

    Raises:
        DataError: The key file is damaged.
        CheckpointError: The disk is full or read-only.
    """
    path = folder / KEY_FILE
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise DataError(f"the key {path} is damaged: restore it from the site's backup; without it splits change.")
    return key


def _make_key(path: Path) -> None:
    """A whole key or none, and the same one for all processes that make it at the same time."""
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
    """Sixteen hex digits that stand for a patient at this site only; who lacks the key cannot test guesses."""
    return hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:16]
