"""Admission and revocation."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from cdtl_core.deploy.enrolment import Enrolment
from cdtl_core.deploy.members import MemberBook, admit, members, revoke
from cdtl_core.errors import DataError, FederationError

Enrol = Callable[..., Enrolment]


def test_admitted_and_revoked_sites_are_remembered(enrol: Enrol, tmp_path: Path) -> None:
    admit(tmp_path, enrol("south"))
    admit(tmp_path, enrol("north"))
    revoke(tmp_path, "south")
    found = {member.site: member for member in members(tmp_path)}
    assert list(found) == ["north", "south"]
    assert found["north"].revoked_at is None
    assert found["south"].revoked_at is not None
    assert revoke(tmp_path, "south") == found["south"]
    with pytest.raises(FederationError, match="site west is not admitted, only north, south"):
        revoke(tmp_path, "west")


def test_a_name_has_one_key_until_it_is_revoked(enrol: Enrol, tmp_path: Path) -> None:
    first, second = enrol("north"), enrol("north", folder="new")
    admit(tmp_path, first)
    with pytest.raises(FederationError, match="revoke north first"):
        admit(tmp_path, second)
    revoke(tmp_path, "north")
    assert admit(tmp_path, second).revoked_at is None
    assert [member.enrolment for member in members(tmp_path)] == [second]


def test_a_key_has_one_name_even_when_revoked(enrol: Enrol, tmp_path: Path) -> None:
    admit(tmp_path, enrol("north"))
    revoke(tmp_path, "north")
    with pytest.raises(FederationError, match="already belongs to site north"):
        admit(tmp_path, enrol("south", folder="north"))


def test_a_site_may_change_its_contract_with_the_same_key(enrol: Enrol, tmp_path: Path) -> None:
    admit(tmp_path, enrol("north"))
    admit(tmp_path, enrol("north", patients=400))
    assert [member.enrolment.contract.patients for member in members(tmp_path)] == [400]


def test_a_book_sees_every_change_at_once_and_reads_nothing_otherwise(enrol: Enrol, tmp_path: Path) -> None:
    book = MemberBook(tmp_path)
    north = enrol("north")
    assert book.by_key() == {}
    admit(tmp_path, north)
    assert [member.site for member in book.by_key().values()] == ["north"]
    assert book.by_key() is book.by_key()
    revoke(tmp_path, "north")
    assert book.by_key()[north.fingerprint].revoked_at is not None
    (tmp_path / "sites" / "north.json").unlink()
    assert book.by_key() == {}


def test_a_damaged_file_admits_no_site_and_hides_no_other(
    enrol: Enrol, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    admit(tmp_path, enrol("north"))
    path = tmp_path / "sites" / "south.json"
    admit(tmp_path, enrol("south"))
    whole = path.read_text()
    for damage in (whole[:80], whole.replace("ecdsa-sha2", "ssh"), whole.replace('"south"', '"west"')):
        path.write_text(damage)
        with caplog.at_level(logging.ERROR):
            assert [member.site for member in MemberBook(tmp_path).by_key().values()] == ["north"]
        assert "south.json" in caplog.text or "public key" in caplog.text
        caplog.clear()
        with pytest.raises(DataError):
            members(tmp_path)
