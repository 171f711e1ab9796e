"""Patient identifiers leave memory only as keyed hashes; the key is made at the site and stays there."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cdtl_core.errors import DataError

__all__ = ["KEY_FILE", "load_key", "pseudonym"]

KEY_FILE = "patient.key"
_KEY_BYTES = 32


def load_key(folder: Path) -> bytes:
    """The site's key, made on first use; readable by its owner only.

    Raises:
        DataError: The key file is damaged.
    """
    path = folder / KEY_FILE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
    else:
        key = secrets.token_bytes(_KEY_BYTES)
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
    if len(key) != _KEY_BYTES:
        raise DataError(f"the key {path} is damaged: restore it from the site's backup; without it splits change.")
    return key


def pseudonym(key: bytes, patient: str) -> str:
    """Sixteen hex digits that stand for a patient at this site only; who lacks the key cannot test guesses."""
    return hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:16]
