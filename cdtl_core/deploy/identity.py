"""Identifies the site of a request: the keys of TLS, of Flower and of an admitted site must be the same."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cdtl_core.deploy.door import Refusal
from cdtl_core.deploy.keys import fingerprint
from cdtl_core.deploy.members import Member, MemberBook

__all__ = ["check_member", "member_of"]


def member_of(book: MemberBook, client_key: str | None) -> Member:
    """Return the member whose certificate a connection showed, including revoked members.

    Raises:
        Refusal: 401, since trying again is useless; a SuperNode exits.
    """
    if client_key is None:
        raise Refusal(401, "no client certificate")
    member = book.by_key().get(client_key)
    if member is None:
        raise Refusal(401, "unregistered key")
    return member


def check_member(book: MemberBook, member: Member, headers: Mapping[str, str]) -> str:
    """Return the fingerprint of the member's key that signed the request; during a renewal a site has two keys.

    Refuses a revoked member, and headers made with another site's key than the connection's. Flower's signature covers
    only a time stamp, so a copy of its headers works for five minutes with any body. Therefore they are accepted only
    on a connection with the same key.

    Args:
        book: The coordinator's members.
        member: The site of the connection.
        headers: The request's headers.

    Raises:
        Refusal: 401.
    """
    if member.revoked_at is not None:
        raise Refusal(401, "revoked key")
    sent = _header_key(headers.get("flwr-public-key", ""))
    if sent is None:
        raise Refusal(401, "no node key in the request")
    named = book.by_key().get(sent)
    if named is None:
        raise Refusal(401, "unregistered key in the request")
    if named.site != member.site:
        raise Refusal(401, f"key mismatch: the request names the key of site {named.site}")
    return sent


@lru_cache(maxsize=256)
def _header_key(value: str) -> str | None:
    try:
        key = serialization.load_pem_public_key(b64decode(value, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        return None
    return fingerprint(key) if isinstance(key, ec.EllipticCurvePublicKey) else None
