"""Request signatures: the filter signs with the site's key, and the node authenticates itself with a temporary key."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message, verify_signature
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from cdtl_core.errors import ConfigError

__all__ = ["NodePass", "Signer", "load_signer"]

_TOLERANCE_S = 60.0


class Signer:
    """Signs requests to the coordinator with the site's P-384 key."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public_key: bytes = public_key_to_bytes(key.public_key())
        self._fixed = {
            "content-type": "application/protobuf",
            "accept": "application/protobuf",
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(self.public_key).decode(),
            **dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()),
        }

    def headers(self) -> dict[str, str]:
        """Return the headers of a request that is sent now."""
        stamp = now().isoformat()
        signature = b64encode(sign_message(self._key, stamp.encode("ascii"))).decode()
        return {**self._fixed, TIMESTAMP_HEADER: stamp, FLEET_HTTP_SIGNATURE_HEADER: signature}


def load_signer(path: Path) -> Signer:
    """Load the site's key, in OpenSSH format.

    Raises:
        ConfigError: The file is missing or holds no P-384 key.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the site's key {path} cannot be read ({type(error).__name__}): restore it.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"the site's key {path} is not a P-384 key: restore the one that was enrolled.")
    return Signer(key)


class NodePass:
    """A key that lives as long as the filter: the SuperNode signs with it, and only this filter accepts it.

    The approved code may read it. With it the code can only send requests to this filter, as it can do with its
    replies.
    """

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        self._public_key = public_key_to_bytes(self.key.public_key())

    def pem(self) -> bytes:
        """Return the key for ``flower-supernode --auth-supernode-private-key``."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request was signed with this key within the last minute."""
        try:
            stamp = headers[TIMESTAMP_HEADER]
            age = (now() - datetime.fromisoformat(stamp)).total_seconds()
            return (
                abs(age) < _TOLERANCE_S
                and b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True) == self._public_key
                and verify_signature(
                    self.key.public_key(),
                    stamp.encode("ascii"),
                    b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True),
                )
            )
        except (KeyError, ValueError, TypeError):
            return False
