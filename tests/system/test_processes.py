"""Programs that end together, in any order."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cdtl_core.system import rotating
from cdtl_core.system.processes import ProcessGroup
from cdtl_core.system.rotating import RotatingLog, copy_input

pytestmark = pytest.mark.integration

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
from cdtl_core.system.processes import ProcessGroup
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


TALK = "import sys\nfor number in range({lines}):\n    print(number, 'x' * 90)\nsys.stderr.write('done\\n')\n"


def told(process: psutil.Process) -> list[str]:
    """The command line; none of a process that has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def logged(log: Path) -> list[str]:
    """The lines of a log and of its older files, oldest first."""
    older = sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: -int(path.suffix[1:]))
    return [line for path in (*older, log) for line in path.read_text().splitlines()]


def test_a_log_is_rotated_while_its_program_runs_and_no_line_is_lost(tmp_path: Path) -> None:
    log, (source, sink) = RotatingLog(tmp_path / "log", max_bytes=100_000, kept=30), os.pipe()
    with subprocess.Popen([sys.executable, "-c", TALK.format(lines=20000)], stdout=sink, stderr=sink):
        os.close(sink)
        copy_input(log, source)
    os.close(source)
    lines = logged(tmp_path / "log")
    assert lines == [*(f"{number} {'x' * 90}" for number in range(20000)), "done"]
    assert len(list(tmp_path.iterdir())) > 10
    assert all(path.stat().st_size < 101_000 for path in tmp_path.iterdir())


def test_a_logs_size_is_bounded(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "log", max_bytes=1000, kept=3)
    for number in range(500):
        log.write(f"{number:090}\n".encode())
    for _ in range(500):
        log.write(b"no end of a line " * 5)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * 2100


@pytest.mark.attack("logs stay within their size", "a program prints 60 MB while it runs")
def test_a_program_that_prints_without_end_does_not_fill_the_disk(tmp_path: Path) -> None:
    group = ProcessGroup(dict(os.environ), tmp_path)
    flood = "import sys\nline = b'x' * 999 + b'\\n'\nfor _ in range(60): sys.stdout.buffer.write(line * 1000)\n"
    try:
        group.start("flood", [sys.executable, "-c", flood], tmp_path / "logs" / "flood.log")
        until(lambda: "flood" in group.ended())
        assert group.ended() == {"flood": 0}
        sizes = [path.stat().st_size for path in (tmp_path / "logs").iterdir()]
        assert len(sizes) == rotating.KEPT + 1
        assert max(sizes) <= rotating.MAX_BYTES + 1000
    finally:
        group.kill()


def test_a_writer_that_is_killed_while_it_waits_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    group, go = ProcessGroup(dict(os.environ), tmp_path), tmp_path / "go"
    (tmp_path / "talk.py").write_text(TALK.format(lines=3000))
    script = f"echo one; while ! [ -e {go} ]; do sleep 0.02; done; {sys.executable} talk.py"
    try:
        group.start("talk", ["/bin/sh", "-c", script], tmp_path / "log")
        until((tmp_path / "log").exists)
        until(lambda: (tmp_path / "log").read_text() == "one\n")
        (writer,) = [one for one in psutil.Process().children() if str(tmp_path / "log") in told(one)]
        writer.kill()
        until(lambda: writer.status() == psutil.STATUS_ZOMBIE)
        go.touch()
        until(lambda: "talk" in group.ended())
        assert logged(tmp_path / "log") == ["one", *(f"{number} {'x' * 90}" for number in range(3000)), "done"]
    finally:
        group.kill()


def test_last_words_are_written_when_the_process_that_reads_them_was_killed(tmp_path: Path) -> None:
    script = f"""
import os, sys
from pathlib import Path
from cdtl_core.system.processes import ProcessGroup
group = ProcessGroup(dict(os.environ), Path({str(tmp_path)!r}))
group.start("talk", ["/bin/sh", "-c", "seq 1 5000; echo ready > ready; sleep 600"], Path("log"))
print(group.number, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        until((tmp_path / "ready").exists)
        process.kill()
    until(lambda: members(number) == [])
    until((tmp_path / "log").exists)
    until(lambda: (tmp_path / "log").read_text().split() == [str(number) for number in range(1, 5001)])


def test_a_log_that_cannot_be_written_holds_no_program_up_and_says_later_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file in the folder's place")
    log = RotatingLog(tmp_path / "logs" / "log")
    log.write(b"lost\n")
    log.write(b"lost too\n")
    (tmp_path / "logs").unlink()
    log.write(b"kept\n")
    assert (tmp_path / "logs" / "log").read_text() == (
        "\n[14 bytes are missing here: the disk could not be written]\nkept\n"
    )
