"""The site's key."""

import os
import re
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cdtl_core.deploy.keys import fingerprint, flower_bytes, load_key, make_key, public_line, read_public_line
from cdtl_core.errors import DataError


def test_the_key_is_private_and_flower_reads_it(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    path = tmp_path / "site.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # as flwr.supernode.cli.flower_supernode._try_setup_client_authentication does
    read = serialization.load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(read, ec.EllipticCurvePrivateKey)
    assert read.public_key() == key.public_key() == load_key(tmp_path).public_key()


def test_flower_sends_the_bytes_we_expect(tmp_path: Path) -> None:
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes

    public = make_key(tmp_path).public_key()
    assert flower_bytes(public) == public_key_to_bytes(public)
    assert fingerprint(bytes_to_public_key(flower_bytes(public))) == fingerprint(public)


def test_an_existing_key_is_never_replaced(tmp_path: Path) -> None:
    make_key(tmp_path)
    before = (tmp_path / "site.key").read_bytes()
    with pytest.raises(DataError, match="exists already"):
        make_key(tmp_path)
    assert (tmp_path / "site.key").read_bytes() == before


def test_a_fingerprint_can_be_read_out_and_names_one_key(tmp_path: Path) -> None:
    public = make_key(tmp_path).public_key()
    assert re.fullmatch(r"([0-9a-f]{4} ){15}[0-9a-f]{4}", fingerprint(public))
    assert fingerprint(read_public_line(public_line(public))) == fingerprint(public)
    assert fingerprint(ec.generate_private_key(ec.SECP384R1()).public_key()) != fingerprint(public)


def test_a_missing_damaged_or_foreign_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        load_key(tmp_path)
    (tmp_path / "site.key").write_bytes(os.urandom(40))
    with pytest.raises(DataError, match="cannot be read as a key"):
        load_key(tmp_path)
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "site.key").write_bytes(
        other.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    with pytest.raises(DataError, match="not a P-384 key"):
        load_key(tmp_path)
    with pytest.raises(DataError, match="curve P-384"):
        read_public_line(public_line(other.public_key()))
    with pytest.raises(DataError, match="not an OpenSSH line"):
        read_public_line("ssh-what AAAA")
