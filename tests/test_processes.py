"""Programs that end together, whoever ends first."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cdtl_core.processes import ProcessGroup

SLEEP = ["/bin/sh", "-c", "sleep 600 & sleep 600 & wait"]


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def members(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_ending_a_group_ends_what_its_programs_have_started(tmp_path: Path, end: str) -> None:
    group = ProcessGroup(dict(os.environ), tmp_path, farewell=f"touch {tmp_path / 'farewell'}")
    group.start("sleep", SLEEP, tmp_path / "log")
    until(lambda: len(members(group.number)) == 4)
    assert group.ended() == {}
    getattr(group, end)()
    assert members(group.number) == []
    assert "sleep" in group.ended()
    assert (tmp_path / "farewell").exists()


def test_a_program_that_ends_is_named_with_its_exit_code(tmp_path: Path) -> None:
    group = ProcessGroup(dict(os.environ), tmp_path)
    try:
        group.start("short", ["/bin/sh", "-c", "echo said; exit 5"], tmp_path / "log")
        until(lambda: bool(group.ended()))
        assert group.ended() == {"short": 5}
        assert (tmp_path / "log").read_text() == "said\n"
    finally:
        group.kill()


def test_a_group_does_not_outlive_the_process_that_made_it(tmp_path: Path) -> None:
    script = f"""
import os, sys
from pathlib import Path
from cdtl_core.processes import ProcessGroup
group = ProcessGroup(dict(os.environ), Path({str(tmp_path)!r}))
group.start("sleep", {SLEEP!r}, Path({str(tmp_path / "log")!r}))
print(group.number, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        until(lambda: len(members(number)) == 4)
        process.kill()
    until(lambda: members(number) == [])
