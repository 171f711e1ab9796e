"""Keyed hashes of patient identifiers."""

from pathlib import Path

import pytest

from cdtl_core.data.identity import KEY_FILE, load_key, pseudonym
from cdtl_core.errors import DataError


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert load_key(tmp_path) == key
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_pseudonyms_are_stable_at_a_site_and_unlike_at_another(tmp_path: Path) -> None:
    one, two = load_key(tmp_path / "one"), load_key(tmp_path / "two")
    assert pseudonym(one, "MRN-7") == pseudonym(one, "MRN-7")
    assert len({pseudonym(one, "MRN-7"), pseudonym(one, "MRN-8"), pseudonym(two, "MRN-7")}) == 3
    assert "MRN" not in pseudonym(one, "MRN-7")


def test_a_damaged_key_is_refused_not_replaced(tmp_path: Path) -> None:
    load_key(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(DataError, match="damaged"):
        load_key(tmp_path)
