"""The gate's signature under approved bundles: a key that lives in this process alone, and the file that names it.

The SuperNode reads that file at its start: a gate that is started anew needs a SuperNode that is started anew.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cdtl_core.durable import replace_bytes
from cdtl_core.errors import PrivacyError

__all__ = ["Seal"]

_ENTITY = "fpk_cdtl_gate"


class Seal:
    """Signs bundles the way ``flower-supernode --trusted-entities`` verifies them."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()

    def publish(self, path: Path) -> None:
        """Write the file for ``--trusted-entities`` and read it back as the SuperNode will.

        Raises:
            PrivacyError: What is in the file afterwards is not this key: an empty file would switch verification off.
        """
        public = self._key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        entities = {_ENTITY: public}
        replace_bytes(path, (json.dumps(entities) + "\n").encode())  # JSON is YAML too
        if yaml.safe_load(path.read_text(encoding="utf-8")) != entities:
            raise PrivacyError(f"{path} does not hold the gate's key after writing it: check the disk; nothing starts.")

    def verifications(self, bundle: bytes, clock: Callable[[], float] = time.time) -> dict[str, str]:
        """What goes with an approved bundle: the signature over the time (8 bytes) and the bundle's SHA-256."""
        signed_at = int(clock())
        signature = self._key.sign(signed_at.to_bytes(8, "big") + hashlib.sha256(bundle).digest())
        text = base64.urlsafe_b64encode(signature).decode().rstrip("=")
        return {"valid_license": "site", _ENTITY: json.dumps({"signed_at": signed_at, "signature": text})}
