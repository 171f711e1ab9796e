"""Persons who approve runs at a site: Ed25519 keys, passphrases, and the signatures of an approval.

A signature shows that the signer had a person's key file and knew its passphrase. It does not show who typed it, and
does not protect from an account that can write ``site.toml``, which lists the persons.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_public_key,
)
from pydantic import BaseModel, ConfigDict

from cdtl_core.config import SiteConfig
from cdtl_core.errors import CheckpointError, ConfigError, PrivacyError
from cdtl_core.system.durable import replace_bytes

__all__ = ["Signature", "Signer", "load_signer", "make_person_key", "open_signer", "sign"]
__all__ += ["valid_signatures"]

_PURPOSE = "cdtl approval 1"
_SHORTEST = 8


class Signature(BaseModel):
    """One person's signature of an approval; `signed_at` in seconds since 1970, `signature` in base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    person: str
    signed_at: float
    signature: str


@dataclass(frozen=True)
class Signer:
    """A person and the private key, opened with the passphrase."""

    person: str
    key: Ed25519PrivateKey

    @property
    def public(self) -> str:
        """The public key as ``approval.keys`` names it."""
        return _text(self.key.public_key())


def make_person_key(path: Path, passphrase: str) -> str:
    """Write a new key, encrypted with a passphrase and readable by its owner only; return the public key's text.

    Raises:
        ConfigError: The passphrase is shorter than 8 characters.
        CheckpointError: The file exists, or cannot be written.
    """
    if len(passphrase) < _SHORTEST:
        raise ConfigError(f"the passphrase has fewer than {_SHORTEST} characters: choose a longer one.")
    if path.exists():
        raise CheckpointError(f"{path} exists: choose another file for the new key.")
    key = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase.encode())
    replace_bytes(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)
    return _text(key.public_key())


def load_signer(path: Path, person: str, passphrase: str) -> Signer:
    """Open a person's key.

    Args:
        path: The key file.
        person: The person's name.
        passphrase: Of the key file.

    Raises:
        ConfigError: The file cannot be read, holds no encrypted Ed25519 key, or the passphrase is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be read ({error.strerror}): give this person's key file.") from None
    return open_signer(content, person, passphrase, path)


def open_signer(content: bytes, person: str, passphrase: str, path: Path) -> Signer:
    """Open a person's key of which the file's content is given; `path` names it. As `load_signer`."""
    try:
        key = load_pem_private_key(content, passphrase.encode())
    except TypeError:
        raise ConfigError(f"the key {path} has no passphrase: make one with cdtl site approver.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"the key {path} cannot be opened: the passphrase or the file is wrong.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the key {path} is not an Ed25519 key: make one with cdtl site approver.")
    return Signer(person, key)


def sign(what: str, signer: Signer | None, site: SiteConfig, signed_at: float) -> Signature:
    """Return a person's signature of an approval.

    Args:
        what: The bytes to sign.
        signer: The person.
        site: The site's settings.
        signed_at: Seconds since 1970.

    Raises:
        PrivacyError: No person is given, or site.toml names another key for this person.
    """
    keys = site.approval.keys
    if signer is None:
        raise PrivacyError(
            f"site.toml names who may approve ({', '.join(sorted(keys))}): give --person NAME --key FILE."
        )
    if keys.get(signer.person) != signer.public:
        raise PrivacyError(
            f"approval.keys in site.toml does not name this key for '{signer.person[:48]}': use that person's own key."
        )
    signature = base64.b64encode(signer.key.sign(_message(what, signer.person, signed_at))).decode()
    return Signature(person=signer.person, signed_at=signed_at, signature=signature)


def valid_signatures(what: str, signatures: Iterable[Signature], site: SiteConfig) -> tuple[Signature, ...]:
    """Return the valid signatures: of persons in site.toml, each person once, and for exactly this approval.

    Args:
        what: The signed bytes.
        signatures: The signatures.
        site: The site's settings.
    """
    found = {one.person: one for one in signatures if _holds(what, one, site.approval.keys.get(one.person))}
    return tuple(found.values())


def _holds(what: str, one: Signature, public: str | None) -> bool:
    if public is None:
        return False
    try:
        key = load_ssh_public_key(public.encode())
        if not isinstance(key, Ed25519PublicKey):
            return False
        key.verify(base64.b64decode(one.signature, validate=True), _message(what, one.person, one.signed_at))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _message(what: str, person: str, signed_at: float) -> bytes:
    return json.dumps([_PURPOSE, what, person, signed_at]).encode()


def _text(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
