"""Two keys that live as long as the filter: one signs approved bundles, the other authenticates the SuperNode.

The SuperNode reads their files at its start, so a new filter needs a new SuperNode.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cdtl_core.deploy.egress_filter.signing import NodePass
from cdtl_core.deploy.link import NODE_KEY, TRUSTED, Link
from cdtl_core.errors import PrivacyError

__all__ = ["Seal"]

_ENTITY = "fpk_cdtl_filter"


class Seal:
    """Signs bundles the way ``flower-supernode --trusted-entities`` verifies them."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.node_pass = NodePass()

    def publish(self, link: Link) -> None:
        """Write the SuperNode's key and the file for ``--trusted-entities``, and check the file.

        Raises:
            PrivacyError: The file does not hold this key; an empty file would switch verification off.
        """
        public = self._key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        entities, path = {_ENTITY: public}, link.folder / TRUSTED
        link.write(NODE_KEY, self.node_pass.pem())
        link.write(TRUSTED, (json.dumps(entities) + "\n").encode())  # JSON is YAML too
        if yaml.safe_load(path.read_text(encoding="utf-8")) != entities:
            raise PrivacyError(
                f"{path} does not hold the filter's key after writing it: check the disk. The service does not start."
            )

    def verifications(self, bundle: bytes, clock: Callable[[], float] = time.time) -> dict[str, str]:
        """Return the signature of an approved bundle, over the time (8 bytes) and the bundle's SHA-256."""
        signed_at = int(clock())
        signature = self._key.sign(signed_at.to_bytes(8, "big") + hashlib.sha256(bundle).digest())
        text = base64.urlsafe_b64encode(signature).decode().rstrip("=")
        return {"valid_license": "site", _ENTITY: json.dumps({"signed_at": signed_at, "signature": text})}
