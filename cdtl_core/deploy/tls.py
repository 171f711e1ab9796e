"""The gateway's side of TLS: every site's certificate is pinned, and a failed handshake has a reason in words."""

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cdtl_core.deploy.keys import fingerprint
from cdtl_core.deploy.members import MemberBook
from cdtl_core.errors import ConfigError
from cdtl_core.foreign import get_logger

__all__ = ["PinnedClients", "client_key", "handshake_fault", "server_context"]

_log = get_logger(__name__)
_PLAIN = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 with a client certificate asked for; whom to trust is added by `PinnedClients`.

    Sessions are not resumed: each connection shows its certificate anew.

    Raises:
        ConfigError: A file is missing or damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"the certificate {certificate} or its key {key} cannot be used ({error}).") from None
    return context


class PinnedClients:
    """Make the certificate of each member a trust anchor of a live context, new members' too.

    A revoked site's certificate stays: it is refused by the request's key, in words it can read, not by a TLS alert.
    """

    def __init__(self, context: ssl.SSLContext, book: MemberBook) -> None:
        self.context = context
        self._book = book
        self._loaded: set[str] = set()

    def refresh(self) -> ssl.SSLContext:
        """The context, with everybody in the book trusted by now."""
        for member in self._book.by_key().values():
            certificate = member.enrolment.certificate
            if certificate in self._loaded:
                continue
            self._loaded.add(certificate)
            try:
                self.context.load_verify_locations(cadata=certificate)
            except (ssl.SSLError, ValueError) as error:
                _log.error("the certificate of site %s cannot be trusted: %s", member.site, error)
        return self.context


def client_key(connection: ssl.SSLObject) -> str | None:
    """Fingerprint of the key that the peer proved to hold; None without a client certificate."""
    der = connection.getpeercert(binary_form=True)
    if not der:
        return None
    key = x509.load_der_x509_certificate(der).public_key()
    return fingerprint(key) if isinstance(key, ec.EllipticCurvePublicKey) else None


def handshake_fault(error: BaseException | None) -> str:
    """Why a handshake failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == 10:
            return "client certificate has expired"
        return f"unknown client certificate ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        if reason in _PLAIN:
            return "plain HTTP on the TLS port"
        if "ALERT" in reason:
            return f"the client does not trust our certificate ({reason.lower().replace('_', ' ')})"
        return f"TLS failed ({reason.lower().replace('_', ' ')})"
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "slow: the TLS handshake took too long"
    return "the client hung up during the TLS handshake"
