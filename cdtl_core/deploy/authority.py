"""A coordinator's own certificate authority, used when the coordinator is made and when its certificate is renewed.

Sites trust its certificate, ``tls/ca.crt``. Its key signs only the server's certificate; sites have self-signed ones.
Therefore the key is stored in a separate folder, out of reach of the service and of the code of runs, or on another
medium.
"""

import os
import shutil
from pathlib import Path

from cryptography import x509

from cdtl_core.deploy.certificates import (
    Credential,
    certificate_pem,
    issue_server_certificate,
    load_credential,
    make_authority,
    save_credential,
)
from cdtl_core.deploy.server_config import SERVER_FILE, ServerConfig, load_server, save_server
from cdtl_core.errors import CheckpointError, ConfigError
from cdtl_core.system.durable import replace_bytes

__all__ = ["AUTHORITY_FOLDER", "adopt_authority_key", "authority_key", "make_coordinator", "renew_server"]
__all__ += ["replace_authority"]

AUTHORITY_FOLDER = "authority"
_KEY = "ca.key"
_DRAFT = ".init"
_PARTS = {AUTHORITY_FOLDER, "tls", "sites", "runs", "logs", SERVER_FILE}


def make_coordinator(folder: Path, config: ServerConfig, *, key: Path | None = None) -> Path:
    """Write a coordinator's folder: authority, TLS certificate and settings. Return the path of the authority's key.

    All files are made in a draft folder and then moved, the settings last. After a kill, the next call starts again or
    moves what is missing. Kubernetes depends on this, because it repeats the command until it succeeds.

    Args:
        folder: Created if it does not exist.
        config: Its settings.
        key: Path of the authority's key; by default in a separate folder in `folder`.

    Raises:
        CheckpointError: The folder holds other files or an unfinished coordinator with other settings, or `key` exists.
        ConfigError: A name of the server is invalid.
    """
    draft = folder / _DRAFT
    found = {path.name for path in folder.iterdir()} - {_DRAFT, "lost+found"} if folder.is_dir() else set()
    complete = (draft / SERVER_FILE).exists()
    if (folder.exists() and not folder.is_dir()) or (found and not (complete and found <= _PARTS)):
        raise CheckpointError(
            f"{folder} is not empty and does not hold an unfinished coordinator: choose another folder."
        )
    if found and load_server(draft) != config:
        raise CheckpointError(
            f"{folder} holds an unfinished coordinator with other settings: repeat the command with those settings."
        )
    _check_free(key, draft)
    if not found:
        _make_draft(draft, config)
    if key is not None:
        _take_away(draft, key)
    for part in sorted(draft.iterdir(), key=lambda path: path.name == SERVER_FILE):
        os.replace(part, folder / part.name)
    draft.rmdir()
    return key or authority_key(folder)


def _make_draft(draft: Path, config: ServerConfig) -> None:
    authority = make_authority(f"cdtl coordinator {config.names[0]}")
    server = issue_server_certificate(
        authority, config.names
    )  # before any file is written, since a name may be invalid
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds sites' weights and the authority's key
    draft.mkdir(mode=0o700)
    save_credential(authority, draft / "tls" / "ca.crt", _own_key(draft))
    _save_server(draft, server)
    for name in ("sites", "runs", "logs"):
        (draft / name).mkdir()
    save_server(draft, config)


def _check_free(key: Path | None, draft: Path) -> None:
    """Refuse an existing file at `key`, unless a killed call has written it."""
    if key is None or not key.exists():
        return
    own = draft / AUTHORITY_FOLDER / _KEY
    if not own.exists() or own.read_bytes() != key.read_bytes():
        raise CheckpointError(f"{key} exists: it may be the key of another coordinator, so give another path.")


def _take_away(draft: Path, key: Path) -> None:
    own = draft / AUTHORITY_FOLDER / _KEY
    if own.exists():
        replace_bytes(key, own.read_bytes(), mode=0o600)
        shutil.rmtree(own.parent)


def renew_server(folder: Path, config: ServerConfig, *, key: Path | None = None) -> None:
    """Issue a new server certificate with a new key for the names in the settings; sites keep the same ca.crt.

    Args:
        folder: The coordinator's folder.
        config: Its settings.
        key: Path of the authority's key, if it is not in `folder`.

    Raises:
        ConfigError: The authority's key is missing or damaged.
    """
    key = key or authority_key(folder)
    if not key.exists():
        raise ConfigError(f"the authority's key is not in {key}: give its path with --authority-key PATH.")
    authority = load_credential(folder / "tls" / "ca.crt", key)
    _save_server(folder, issue_server_certificate(authority, config.names))


def replace_authority(folder: Path, config: ServerConfig, *, key: Path | None = None) -> None:
    """Make a new authority; ``ca.crt`` then holds its certificate and the previous one, and sites must get it.

    The server's certificate stays and is still signed by the previous authority. `renew_server` uses the new one.

    Args:
        folder: The coordinator's folder.
        config: Its settings.
        key: Path of the new key, if it is not kept in `folder`.
    """
    path = folder / "tls" / "ca.crt"
    before = x509.load_pem_x509_certificate(path.read_bytes())
    authority = make_authority(f"cdtl coordinator {config.names[0]}")
    save_credential(authority, path, key or _own_key(folder))
    replace_bytes(path, (certificate_pem(authority.certificate) + certificate_pem(before)).encode("ascii"))


def authority_key(folder: Path) -> Path:
    """Return the path of the authority's key in the coordinator's folder; earlier versions kept it in ``tls/``."""
    before = folder / "tls" / _KEY
    return before if before.exists() else folder / AUTHORITY_FOLDER / _KEY


def adopt_authority_key(folder: Path) -> None:
    """Move the authority's key of an earlier version into the separate folder.

    Raises:
        CheckpointError: It cannot be moved.
    """
    before = folder / "tls" / _KEY
    if not before.exists():
        return
    try:
        before.replace(_own_key(folder))
    except OSError as error:
        raise CheckpointError(
            f"{before} cannot be moved to {folder / AUTHORITY_FOLDER} ({error.strerror}): move it there, or to a safe "
            "place outside the coordinator's folder; the service must not be able to read it."
        ) from None


def _own_key(folder: Path) -> Path:
    (folder / AUTHORITY_FOLDER).mkdir(mode=0o700, exist_ok=True)
    return folder / AUTHORITY_FOLDER / _KEY


def _save_server(folder: Path, server: Credential) -> None:
    save_credential(server, folder / "tls" / "server.crt", folder / "tls" / "server.key")
