"""Certificates that strict clients accept."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cdtl_core.deploy.certificates import (
    Credential,
    certificate_pem,
    expiry,
    issue_server_certificate,
    load_credential,
    loopback_certificate,
    make_authority,
    save_credential,
    self_signed_client_certificate,
)
from cdtl_core.errors import ConfigError

CLIENT_STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN


def contexts(server: Credential, trusted: x509.Certificate, tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    save_credential(server, tmp_path / "s.crt", tmp_path / "s.key")
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(tmp_path / "s.crt", tmp_path / "s.key")
    theirs = ssl.create_default_context(cadata=certificate_pem(trusted))
    theirs.verify_flags |= CLIENT_STRICT
    return ours, theirs


def shake(ours: ssl.SSLContext, theirs: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """A TLS handshake in memory; the server's view of it."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = ours.wrap_bio(up, down, server_side=True)
    client = theirs.wrap_bio(down, up, server_hostname=name)
    waiting = [client, server, client, server]
    for side in waiting:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return server


@pytest.mark.parametrize("name", ["door.example.org", "10.0.0.7", "::1"])
def test_a_strict_client_accepts_each_name_of_a_server_and_no_other(name: str, tmp_path: Path) -> None:
    authority = make_authority("our federation")
    server = issue_server_certificate(authority, ["door.example.org", "10.0.0.7", "::1"])
    assert shake(*contexts(server, authority.certificate, tmp_path), name).version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        shake(*contexts(server, authority.certificate, tmp_path), "other.example.org")


def test_a_client_that_trusts_another_authority_refuses(tmp_path: Path) -> None:
    server = issue_server_certificate(make_authority("ours"), ["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(*contexts(server, make_authority("ours").certificate, tmp_path), "localhost")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_the_loopback_certificate_is_its_own_trust_anchor(name: str, tmp_path: Path) -> None:
    server = loopback_certificate()
    assert shake(*contexts(server, server.certificate, tmp_path), name).version() == "TLSv1.3"


def test_a_self_signed_client_certificate_is_trusted_when_pinned_and_only_then(tmp_path: Path) -> None:
    authority = make_authority("ours")
    ours, theirs = contexts(issue_server_certificate(authority, ["localhost"]), authority.certificate, tmp_path)
    ours.verify_mode = ssl.CERT_OPTIONAL
    ours.verify_flags |= CLIENT_STRICT
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = self_signed_client_certificate(key, "north")
    save_credential(Credential(certificate, key), tmp_path / "c.crt", tmp_path / "c.key")
    theirs.load_cert_chain(tmp_path / "c.crt", tmp_path / "c.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(ours, theirs, "localhost")
    ours.load_verify_locations(cadata=certificate_pem(certificate))
    shown = shake(ours, theirs, "localhost").getpeercert(binary_form=True)
    assert x509.load_der_x509_certificate(shown or b"").public_key() == key.public_key()


def test_keys_are_private_and_pairs_survive_the_disk(tmp_path: Path) -> None:
    authority = make_authority("ours")
    (tmp_path / ".ca.key.draft").write_text("left by a killed process")
    (tmp_path / ".ca.key.draft").chmod(0o644)
    save_credential(authority, tmp_path / "ca.crt", tmp_path / "ca.key")
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    assert load_credential(tmp_path / "ca.crt", tmp_path / "ca.key").certificate == authority.certificate
    save_credential(make_authority("theirs"), tmp_path / "b.crt", tmp_path / "b.key")
    with pytest.raises(ConfigError, match="is not the key of"):
        load_credential(tmp_path / "ca.crt", tmp_path / "b.key")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_credential(tmp_path / "no.crt", tmp_path / "b.key")


def test_expiry_is_readable(tmp_path: Path) -> None:
    authority = make_authority("ours")
    save_credential(authority, tmp_path / "ca.crt", tmp_path / "ca.key")
    save_credential(issue_server_certificate(authority, ["a"]), tmp_path / "s.crt", tmp_path / "s.key")
    now, day = datetime.now(UTC), timedelta(days=1)
    assert abs(expiry(tmp_path / "ca.crt") - now - 3650 * day) < day
    assert abs(expiry(tmp_path / "s.crt") - now - 365 * day) < day


@pytest.mark.parametrize(
    "names", [[], ["sp\u00e4t.example"], [""], ["https://cdtl.example"], ["cdtl.example:8443"], ["a b"]]
)
def test_names_that_no_client_could_check_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError):
        issue_server_certificate(make_authority("ours"), names)
