"""Keys and signatures: one P-384 key pair identifies a site in Flower and in TLS, and never leaves the site."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cdtl_core.errors import DataError
from cdtl_core.system.durable import replace_bytes

__all__ = ["KEY_FILE", "fingerprint", "flower_bytes", "is_signed", "is_spoken", "load_key", "make_key", "public_line"]
__all__ += ["read_public_line", "sign_json", "spoken_end"]

KEY_FILE = "site.key"
_SPOKEN_GROUPS = 4  # 64 bits: no one can make a key with the same end


def make_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """Make `site.key` in a folder, readable by its owner only, in the format of flower-supernode (OpenSSH).

    Raises:
        DataError: It exists already; with another key an admitted site would become a stranger.
    """
    path = folder / KEY_FILE
    if path.exists():
        raise DataError(f"{path} exists already: keep it, or move it away and enrol the site again.")
    key = ec.generate_private_key(ec.SECP384R1())
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    replace_bytes(path, content, mode=0o600)
    return key


def load_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """Read `site.key`.

    Raises:
        DataError: It is missing, damaged or not of P-384.
    """
    path = folder / KEY_FILE
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: restore it from the site's backup, or run cdtl site init and enrol again."
        ) from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DataError(f"{path} cannot be read as a key ({error}): restore it from the site's backup.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise DataError(f"{path} is not a P-384 key: restore it from the site's backup.")
    return key


def public_line(key: ec.EllipticCurvePublicKey) -> str:
    """Return the public key as one OpenSSH line, as `flwr supernode register` takes it."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode("ascii")


def read_public_line(line: str) -> ec.EllipticCurvePublicKey:
    """Return the key of an OpenSSH line.

    Raises:
        DataError: It is no P-384 key.
    """
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):
        raise DataError("the public key is not an OpenSSH line: ask the site for its enrolment again.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise DataError("the public key is not of the curve P-384: ask the site to make its key with cdtl.")
    return key


def flower_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the key as Flower sends it, in base64, in the header flwr-public-key.

    Source: flwr.supercore.primitives.asymmetric.public_key_to_bytes, flwr 1.41 (not imported: it costs a second).
    """
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of the key (DER, SubjectPublicKeyInfo) in 16 groups of 4 hex digits, for reading aloud."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digits = hashlib.sha256(der).hexdigest()
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def spoken_end(fingerprint: str) -> str:
    """Return the last groups of a fingerprint, which a person types while they are read aloud: 64 bits."""
    return " ".join(fingerprint.split()[-_SPOKEN_GROUPS:])


def is_spoken(fingerprint: str, typed: str) -> bool:
    """Whether typed text is the end of a fingerprint; spaces and case do not count."""
    return "".join(typed.lower().split()) == "".join(spoken_end(fingerprint).split())


def sign_json(key: ec.EllipticCurvePrivateKey, purpose: bytes, content: Mapping[str, Any]) -> str:
    """Return the signature of a JSON object: base64 of ECDSA with SHA-384 over its canonical form.

    Args:
        key: Signs it.
        purpose: Distinguishes the kinds of content that one key signs.
        content: The object.
    """
    return base64.b64encode(key.sign(_canonical(purpose, content), ec.ECDSA(hashes.SHA384()))).decode("ascii")


def is_signed(key: ec.EllipticCurvePublicKey, purpose: bytes, content: Mapping[str, Any], signature: str) -> bool:
    """Whether `sign_json` made the signature, with this key, for this purpose and content.

    Args:
        key: Of the signer.
        purpose: As given to `sign_json`.
        content: The object as it was read, before a model adds defaults.
        signature: Base64.
    """
    try:
        key.verify(base64.b64decode(signature, validate=True), _canonical(purpose, content), ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):  # the latter: no base64
        return False
    return True


def _canonical(purpose: bytes, content: Mapping[str, Any]) -> bytes:
    return purpose + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
