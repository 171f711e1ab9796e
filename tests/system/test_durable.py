"""A file that gets another's content as a second name of it, or as a copy where the disk allows no second name."""

import errno
import os
from pathlib import Path

import pytest

from cdtl_core.errors import CheckpointError
from cdtl_core.system.durable import replace_bytes, replace_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    replace_bytes(tmp_path / "source", b"weights")
    return tmp_path / "source"


def test_both_names_hold_the_content_and_each_stays_when_the_other_is_replaced(source: Path, tmp_path: Path) -> None:
    second, third = tmp_path / "deep" / "second", tmp_path / "third"
    replace_bytes(third, b"older")
    for path in (second, third, third):
        replace_file(path, source)
    assert second.samefile(source)
    assert third.samefile(source)
    replace_bytes(source, b"newer")
    replace_bytes(third, b"newest")
    assert (source.read_bytes(), second.read_bytes(), third.read_bytes()) == (b"newer", b"weights", b"newest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "source", "third"]  # no draft is left


@pytest.mark.parametrize("fault", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_without_second_names_gets_a_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "link", refuse)
    replace_file(tmp_path / "copy", source)
    assert (tmp_path / "copy").read_bytes() == b"weights"
    assert not (tmp_path / "copy").samefile(source)


def test_a_source_that_is_gone_leaves_the_old_content(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "path"
    replace_bytes(path, b"older")
    source.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        replace_file(path, source)
    assert path.read_bytes() == b"older"
    assert [one.name for one in tmp_path.iterdir()] == ["path"]
