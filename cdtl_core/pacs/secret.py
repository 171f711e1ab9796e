"""Secrets from a file of mode 0600 or from the environment, and what TLS needs. None is ever printed."""

import os
import ssl
import stat
from pathlib import Path

from cdtl_core.data.identity import load_key
from cdtl_core.errors import ConfigError
from cdtl_core.pacs.settings import DicomwebConfig, DimseConfig, PacsConfig

__all__ = ["check_private", "client_context", "password_of", "server_context", "site_key", "token_of"]


def site_key(config: PacsConfig) -> bytes:
    """Return the key of all keyed hashes, which is created on first use.

    Raises:
        ConfigError: Its folder does not exist.
        DataError: The key file is damaged.
    """
    folder = config.key_folder
    if not folder.is_dir():
        raise ConfigError(f"key_folder {folder} does not exist: name the site's folder, where patient.key is.")
    return load_key(folder)


def password_of(config: DicomwebConfig) -> str | None:
    """Return the password; None: the PACS asks for none.

    Raises:
        ConfigError: It is missing, or others can read its file.
    """
    return _secret("password", config.password_file, config.password_env)


def token_of(config: DicomwebConfig) -> str | None:
    """Return the bearer token; errors as in `password_of`."""
    return _secret("token", config.token_file, config.token_env)


def _secret(what: str, file: Path | None, variable: str | None) -> str | None:
    if file is not None:
        check_private(file, what)
        found = file.read_text(encoding="utf-8").partition("\n")[0].strip()
        if not found:
            raise ConfigError(f"{file} is empty: write the {what} on its first line.")
        return found
    if variable is not None:
        found = os.environ.get(variable, "")
        if not found:
            raise ConfigError(f"the environment variable {variable} is not set: it must hold the {what} of the PACS.")
        return found
    return None


def check_private(path: Path, what: str) -> None:
    """Refuse a file with a secret that is missing or that others can read.

    Raises:
        ConfigError: It is.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"the {what} file {path} cannot be read ({error.strerror}): correct its path.") from None
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(
            f"other accounts can read the {what} file {path} (mode {stat.S_IMODE(found.st_mode):04o}): make it yours "
            f"alone with chmod 600 {path}"
        )
    if not os.access(path, os.R_OK):
        raise ConfigError(f"the {what} file {path} belongs to another account: give it to the one that runs cdtl.")


def client_context(config: DimseConfig) -> ssl.SSLContext | None:
    """Return what a connection to the PACS needs; None without TLS.

    Raises:
        ConfigError: A file is missing or no PEM file, or others can read the key.
    """
    if not config.tls:
        return None
    return _loaded(config, ssl.Purpose.SERVER_AUTH)


def server_context(config: DimseConfig) -> ssl.SSLContext | None:
    """Return what connections from the PACS need, which must show a certificate; errors as in `client_context`."""
    if not config.tls:
        return None
    context = _loaded(config, ssl.Purpose.CLIENT_AUTH)
    if config.ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _loaded(config: DimseConfig, purpose: ssl.Purpose) -> ssl.SSLContext:
    if config.certificate_key is not None:
        check_private(config.certificate_key, "key")
    try:
        context = ssl.create_default_context(purpose, cafile=str(config.ca_file) if config.ca_file else None)
        if config.certificate is not None:
            context.load_cert_chain(str(config.certificate), str(config.certificate_key))
    except (OSError, ssl.SSLError):
        raise ConfigError(
            "the files under [dimse] ca_file, certificate and certificate_key cannot be read: they must exist, be PEM "
            "files, and the key must belong to the certificate."
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
