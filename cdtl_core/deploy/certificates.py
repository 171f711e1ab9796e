"""Certificates of the coordinator's authority, its server, a site's client and a loopback server."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cdtl_core.errors import ConfigError
from cdtl_core.system.durable import replace_bytes

__all__ = [
    "PEM",
    "Credential",
    "certificate_pem",
    "expiry",
    "issue_server_certificate",
    "load_credential",
    "loopback_certificate",
    "make_authority",
    "names_of",
    "save_credential",
    "self_signed_client_certificate",
]

PEM = r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]{1,8000}-----END CERTIFICATE-----\n"
"""Pattern of one certificate, as `certificate_pem` writes it."""
_YEAR = timedelta(days=365)
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_BACKDATED = timedelta(hours=1)  # the peer's clock may be behind ours


@dataclass(frozen=True)
class Credential:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(name: str) -> Credential:
    """Make a certificate authority, valid for 10 years, that can sign server certificates but no other authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    draft = _draft(name, name, key.public_key(), 10 * _YEAR)
    draft = draft.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    draft = draft.add_extension(_usage(authority=True), critical=True)
    return Credential(draft.sign(key, hashes.SHA384()), key)


def issue_server_certificate(authority: Credential, names: Sequence[str], *, now: datetime | None = None) -> Credential:
    """Issue a server certificate for DNS names and IP addresses, valid for a year, with a new key.

    Args:
        authority: Signs it.
        names: At least one.
        now: Start of its validity; None: the current time.

    Raises:
        ConfigError: There is no name, or one that is neither an address nor a DNS name.
    """
    if not names:
        raise ConfigError("a server certificate needs a name, got none: give the names that sites connect to.")
    key = ec.generate_private_key(ec.SECP384R1())
    issuer = authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    draft = _leaf(names[0], str(issuer), key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH, now)
    draft = draft.add_extension(_alternative_names(names), critical=False)
    draft = draft.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
    )
    return Credential(draft.sign(authority.key, hashes.SHA384()), key)


def self_signed_client_certificate(
    key: ec.EllipticCurvePrivateKey, site: str, *, now: datetime | None = None
) -> x509.Certificate:
    """Return a site's client certificate, valid for a year; the coordinator trusts this certificate, not an issuer.

    Args:
        key: The site's key.
        site: The site's name.
        now: Start of its validity.
    """
    draft = _leaf(site, site, key.public_key(), ExtendedKeyUsageOID.CLIENT_AUTH, now)
    draft = draft.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    return draft.sign(key, hashes.SHA384())


def loopback_certificate() -> Credential:
    """Make a self-signed server certificate for localhost, 127.0.0.1 and ::1, as its own trust anchor."""
    key = ec.generate_private_key(ec.SECP384R1())
    draft = _leaf("localhost", "localhost", key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH, None)
    draft = draft.add_extension(_alternative_names(["localhost", "127.0.0.1", "::1"]), critical=False)
    draft = draft.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    return Credential(draft.sign(key, hashes.SHA384()), key)


def certificate_pem(certificate: x509.Certificate) -> str:
    """Return a certificate as PEM text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def save_credential(credential: Credential, certificate: Path, key: Path) -> None:
    """Write a certificate and its key as PEM, the key first and readable by its owner only.

    Args:
        credential: Certificate and key.
        certificate: Path of the certificate.
        key: Path of the key.
    """
    content = credential.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    replace_bytes(key, content, mode=0o600)
    replace_bytes(certificate, certificate_pem(credential.certificate).encode("ascii"))


def load_credential(certificate: Path, key: Path) -> Credential:
    """Read a certificate and its key as `save_credential` wrote them.

    Raises:
        ConfigError: A file is missing or damaged, or the key is another's.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{certificate} and {key} cannot be read ({error}): restore them or create them again."
        ) from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != found.public_key():
        raise ConfigError(f"{key} is not the key of {certificate}: restore both from the same backup.")
    return Credential(found, private)


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and addresses that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(one.value) for one in found)


def expiry(certificate: Path) -> datetime:
    """Return the end of a certificate's validity, in UTC.

    Raises:
        ConfigError: It is missing or damaged.
    """
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise ConfigError(f"{certificate} cannot be read ({error}): restore it or create it again.") from None


def _draft(
    subject: str, issuer: str, key: ec.EllipticCurvePublicKey, lifetime: timedelta, now: datetime | None = None
) -> x509.CertificateBuilder:
    now = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _leaf(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePublicKey,
    purpose: x509.ObjectIdentifier,
    now: datetime | None,
) -> x509.CertificateBuilder:
    return (
        _draft(subject, issuer, key, _YEAR, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    except ValueError:
        raise ConfigError(f"{common!r} cannot be the name of a certificate: use 1 to 64 characters.") from None


def _alternative_names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_alternative_name(name) for name in names])


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is neither an IP address nor a host name: give the name alone, such as cdtl.hospital.org, "
            "without https:// and without a port."
        )
    return x509.DNSName(name)
