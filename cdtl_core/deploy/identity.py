"""Which site a request is of: the key of its TLS connection, and Flower's, and an admitted site's are one."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cdtl_core.deploy.door import Refusal
from cdtl_core.deploy.keys import fingerprint
from cdtl_core.deploy.members import MemberBook

__all__ = ["identify"]


def identify(book: MemberBook, client_key: str | None, headers: Mapping[str, str]) -> str:
    """The site's name.

    Flower's signature covers a time stamp only, so whoever sees its headers can use them again for five minutes with
    any body: they are let through on a connection of the same key only.

    Raises:
        Refusal: 401, since trying again is useless; a SuperNode exits.
    """
    members = book.by_key()
    if client_key is None:
        raise Refusal(401, "no client certificate")
    member = members.get(client_key)
    if member is None:
        raise Refusal(401, "unregistered key")
    if member.revoked_at is not None:
        raise Refusal(401, "revoked key")
    sent = _header_key(headers.get("flwr-public-key", ""))
    if sent is None:
        raise Refusal(401, "no node key in the request")
    if sent not in members:
        raise Refusal(401, "unregistered key")
    if sent != client_key:
        raise Refusal(401, "key mismatch: the request names the key of another site")
    return member.site


@lru_cache(maxsize=256)
def _header_key(value: str) -> str | None:
    try:
        key = serialization.load_pem_public_key(b64decode(value, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        return None
    return fingerprint(key) if isinstance(key, ec.EllipticCurvePublicKey) else None
