"""TLS of the gateway: every site's certificate is pinned, and a failed handshake has a reason in words."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cdtl_core.deploy.keys import fingerprint
from cdtl_core.deploy.members import Member, MemberBook
from cdtl_core.errors import ConfigError
from cdtl_core.system.foreign import get_logger

__all__ = ["PinnedClients", "ServerCertificate", "client_key", "handshake_fault", "server_context"]

_log = get_logger(__name__)
_PLAIN = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a TLS 1.3 context that asks for a client certificate; `PinnedClients` adds the trusted ones.

    Sessions are not resumed: each connection shows its certificate again.

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


class ServerCertificate:
    """The certificate and key of a live context; new files are used from the next connection on."""

    def __init__(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        self._context, self._files = context, (certificate, key)
        self._stamp = self._look()

    def refresh(self) -> None:
        """Load the files again if they have changed; a pair that does not match (yet) is ignored and logged."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._context.load_cert_chain(*self._files)
            _log.info("the server's certificate was renewed; new connections see it")
        except OSError as error:  # ssl.SSLError is one
            _log.error("the new certificate %s cannot be used, the one before stays: %s", self._files[0], error)

    def _look(self) -> list[tuple[int, int] | None]:
        stamps: list[tuple[int, int] | None] = []
        for path in self._files:
            try:
                status = path.stat()
                stamps.append((status.st_mtime_ns, status.st_ino))
            except FileNotFoundError:
                stamps.append(None)
        return stamps


class PinnedClients:
    """Make the certificate of each member a trust anchor of a live context, including new members.

    The certificate of a revoked site stays. The site is refused by the request's key, with a readable reason instead of
    a TLS alert.
    """

    def __init__(self, context: ssl.SSLContext, book: MemberBook, own: ServerCertificate | None = None) -> None:
        self.context = context
        self._own = own
        self._book = book
        self._loaded: set[str] = set()
        self._seen: dict[str, Member] | None = None

    def refresh(self) -> ssl.SSLContext:
        """Return the context with the current members and server certificate."""
        if self._own:
            self._own.refresh()
        by_key = self._book.by_key()
        if by_key is not self._seen:
            self._seen = by_key
            for member in by_key.values():
                for _, certificate in member.keys(datetime.now(UTC)).values():
                    self._trust(member.site, certificate)
        return self.context

    def _trust(self, site: str, certificate: str) -> None:
        if certificate in self._loaded:
            return
        self._loaded.add(certificate)
        try:
            self.context.load_verify_locations(cadata=certificate)
        except (ssl.SSLError, ValueError) as error:
            _log.error("the certificate of site %s cannot be trusted: %s", site, error)


def client_key(connection: ssl.SSLObject) -> str | None:
    """Return the fingerprint of the key that the peer proved to hold; None without a client certificate."""
    der = connection.getpeercert(binary_form=True)
    if not der:
        return None
    key = x509.load_der_x509_certificate(der).public_key()
    return fingerprint(key) if isinstance(key, ec.EllipticCurvePublicKey) else None


def handshake_fault(error: BaseException | None) -> str:
    """Return why a handshake failed, in words."""
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
    return "the client disconnected during the TLS handshake"
