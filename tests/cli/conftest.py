"""A federation of two tiny sites, `tiny.toml`, in the working folder of each test."""

from pathlib import Path

import pytest

from tests.stub import STUB

TINY = f"""
name = "tiny"
[image]
size = 32
[model]
backbone = "{STUB}"
weights = "random"
[train]
steps = 1
batch_size = 4
[federation]
rounds = 2
[blend]
settle = 1
[[sites]]
site = "alba"
modality = "ultrasound"
data.phantom = {{ patients = 12 }}
[[sites]]
site = "como"
modality = "histology"
data.phantom = {{ patients = 12 }}
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
