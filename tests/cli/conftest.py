"""A federation of two tiny sites, `tiny.toml`, in the working folder of each test."""

from pathlib import Path

import pytest

from tests.stub import TINY_SETTINGS

TINY = (
    TINY_SETTINGS
    + """
[[sites]]
site = "alba"
modality = "ultrasound"
data.phantom = { patients = 12 }
[[sites]]
site = "como"
modality = "histology"
data.phantom = { patients = 12 }
"""
)


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
