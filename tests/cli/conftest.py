"""A federation of two tiny sites, `tiny.toml`, in the working folder of each test."""

from pathlib import Path

import pytest

from tests.stub import TINY_SETTINGS, phantom_sites

TINY = TINY_SETTINGS + phantom_sites()


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
