"""Writing that survives a kill, and in simulations waits for no disk."""

import os
from pathlib import Path

import pytest

from cdtl_core import durable


def test_only_inside_the_block_nothing_is_flushed_and_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)

    def write(name: str) -> None:
        durable.replace_bytes(tmp_path / name / "draft" / "a", b"whole")
        durable.append_line(tmp_path / name / "lines", "one")
        durable.publish_folder(tmp_path / name / "draft", tmp_path / name / "b")

    with durable.without_flush():
        write("inside")
    assert not flushed
    write("outside")
    assert len(flushed) == 6  # a file and its folder; a line; a file, its folder and the folder that it came to
    for name in ("inside", "outside"):
        assert (tmp_path / name / "b" / "a").read_bytes() == b"whole"
        assert (tmp_path / name / "lines").read_text() == "one\n"
