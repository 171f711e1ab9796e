"""Chained logs: every edit is found; rotation, a kill or a full disk is not mistaken for one."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from cdtl_core.deploy.log_check import Checked, check_log
from cdtl_core.deploy.records import server_logs, site_logs
from cdtl_core.system.chained import ChainedLog, Head, LogFiles, parse_line, read_head
from tests.conftest import Cdtl
from tests.tables import Tries


def files_in(folder: Path, *, name: str = "egress.jsonl", max_bytes: int = 600, kept: int = 3) -> LogFiles:
    return LogFiles(folder / "logs" / name, folder / "heads" / "log.json", max_bytes, kept)


def written(files: LogFiles, lines: int) -> ChainedLog:
    log = ChainedLog(files)
    for number in range(lines):
        log.append({"kind": "reply", "bytes": number, "why": f"line {number}"})
    return log


def newest_first(files: LogFiles) -> list[Path]:
    return [path for path in (files.path, *map(files.older, range(1, files.kept + 1))) if path.exists()]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def changed_byte(path: Path, choose: Random) -> None:
    content = bytearray(path.read_bytes())
    content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    path.write_bytes(content)


def removed_line(path: Path, choose: Random) -> None:
    lines = lines_of(path)
    del lines[choose.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def repeated_line(path: Path, choose: Random) -> None:
    lines = lines_of(path)
    lines.insert(choose.randrange(len(lines) + 1), choose.choice(lines))
    path.write_bytes(b"".join(lines))


def foreign_line(path: Path, choose: Random) -> None:
    lines = lines_of(path)
    lines.insert(choose.randrange(len(lines) + 1), choose.choice([b'{"kind": "reply"}\n', b"\n", b"\xff\xfe\n"]))
    path.write_bytes(b"".join(lines))


def moved_line(path: Path, choose: Random) -> None:
    lines = lines_of(path)
    if len(lines) < 2:
        removed_line(path, choose)
        return
    one, other = choose.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    path.write_bytes(b"".join(lines))


def cut(path: Path, choose: Random) -> None:
    os.truncate(path, choose.randrange(path.stat().st_size))


def removed_file(path: Path, choose: Random) -> None:
    path.unlink()


def other_number(path: Path, choose: Random) -> None:
    """An edit by hand that keeps the line's form: another value and the old hash."""
    lines = lines_of(path)
    row = choose.randrange(len(lines))
    parsed = parse_line(lines[row])
    assert parsed
    value = {**parsed[0], "bytes": choose.randrange(10**6, 10**7), "hash": parsed[1]}
    lines[row] = (json.dumps(value) + "\n").encode()
    path.write_bytes(b"".join(lines))


EDITS: list[Callable[[Path, Random], None]] = [
    changed_byte, removed_line, repeated_line, foreign_line, moved_line, cut, removed_file, other_number,
]  # fmt: skip


@pytest.mark.attack("records show every edit", "one random edit of a log")
@pytest.mark.parametrize("edit", EDITS)
def test_a_single_edit_anywhere_is_found(edit: Callable[[Path, Random], None], tmp_path: Path, tries: Tries) -> None:
    """Before and after rotation has dropped lines; `changed_byte` may leave a torn last line, which the head shows."""
    choose = Random(edit.__name__)
    for lines in (1, 9, 40):
        whole = files_in(tmp_path / str(lines))
        written(whole, lines)
        assert not check_log(whole).faults
        for attempt in range(30):
            folder = tmp_path / f"{lines}-{attempt}"
            shutil.copytree(tmp_path / str(lines), folder)
            files = files_in(folder)
            edit(choose.choice(newest_first(files)), choose)
            assert check_log(files).faults, f"{edit.__name__}, {lines} lines, attempt {attempt}"
            tries.add()


@pytest.mark.attack("records show every edit", "the log is written again")
def test_a_log_that_was_written_again_does_not_fit_its_head_or_a_noted_one(tmp_path: Path) -> None:
    files = files_in(tmp_path, max_bytes=10**6)
    written(files, 9)
    noted = check_log(files).head
    old_head = files.head.read_bytes()
    shutil.rmtree(files.path.parent)
    files.head.unlink()
    log = written(files, 8)
    log.append({"kind": "reply", "bytes": 8, "why": "forged"})
    assert not check_log(files).faults, "an attacker who also rewrites the head leaves no trace here"
    assert check_log(files, noted=noted).faults, "but the head that was noted elsewhere shows it"
    files.head.write_bytes(old_head)
    assert check_log(files).faults


def test_a_noted_head_is_found_again_until_rotation_drops_it(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    log = written(files, 5)
    noted = check_log(files).head
    log.append({"kind": "reply"})
    assert not check_log(files, noted=noted).faults
    written(files, 60)
    found = check_log(files, noted=noted)
    assert not found.faults
    assert "rotation has dropped number 5" in found.remarks[0]
    assert check_log(files, noted=Head(10**6, noted.hash)).faults


def test_rotation_keeps_a_bounded_number_of_files_and_says_what_it_dropped(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    written(files, 60)
    found = check_log(files)
    assert len(newest_first(files)) == files.kept + 1
    assert not found.faults
    assert found.dropped > 0
    assert found.dropped + found.lines == found.head.seq == 60


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_rotation_that_was_killed_half_way_is_no_fault(moves: int, tmp_path: Path) -> None:
    """Files are moved from the oldest on; `moves` of them were, when the kill came."""
    files, log = files_in(tmp_path), None
    while not files.older(files.kept).exists() or files.path.stat().st_size <= files.max_bytes:
        log = log or ChainedLog(files)
        log.append({"kind": "reply"})
    head, before = read_head(files.head), check_log(files).lines
    dropped = len(lines_of(files.older(files.kept)))
    oldest = parse_line(lines_of(files.older(files.kept - 1))[0])
    assert head
    assert oldest
    files.head.write_text(json.dumps({**vars(head), "first": oldest[0]["seq"]}))
    for number in list(range(files.kept, 0, -1))[:moves]:
        (files.older(number - 1) if number > 1 else files.path).replace(files.older(number))
    assert not check_log(files).faults
    ChainedLog(files).append({"kind": "reply"})
    found = check_log(files)
    assert not found.faults
    assert found.lines == before + 1 - dropped


def test_half_a_line_that_a_kill_left_is_said_and_replaced(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    written(files, 3)
    with open(files.path, "ab") as file:
        file.write(b'{"kind": "re')
    found = check_log(files)
    assert (found.faults, found.lines) == ([], 3)
    assert "half a line" in found.remarks[0]
    written(files, 1)
    assert check_log(files) == Checked(4, Head(4, check_log(files).head.hash))


def test_evidence_of_a_cut_stays_when_the_log_goes_on(tmp_path: Path) -> None:
    files = files_in(tmp_path, max_bytes=10**6)
    written(files, 9)
    files.path.write_bytes(b"".join(lines_of(files.path)[:5]))
    assert "were removed" in check_log(files).faults[0]
    written(files, 3)
    assert check_log(files).faults


def test_a_log_of_an_earlier_version_is_kept_and_the_chain_begins_after_it(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.path.parent.mkdir(parents=True)
    files.path.write_text('{"time": 1, "kind": "traffic"}\n' * 2)
    written(files, 2)
    found = check_log(files)
    assert (found.faults, found.lines) == ([], 2)
    assert "egress.1.jsonl has 2 lines without hashes" in found.remarks[0]
    assert b"traffic" in files.older(1).read_bytes()


def test_hashes_cannot_be_stripped_to_pass_a_log_for_an_earlier_versions(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    written(files, 12)
    oldest = newest_first(files)[-1]
    values = [json.loads(line) for line in lines_of(oldest)]
    kept = [{name: value for name, value in line.items() if name not in {"hash", "seq", "after"}} for line in values]
    oldest.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert check_log(files).faults


def test_lines_that_wait_for_the_disk_are_noted_at_the_next_sync(tmp_path: Path) -> None:
    files, now = files_in(tmp_path, name="access.log", max_bytes=10**6), [0.0]
    log = ChainedLog(files, sync_s=1.0, clock=lambda: now[0])
    for _ in range(5):
        log.append({"status": 200})
    assert read_head(files.head) == Head(1, parse_line(lines_of(files.path)[0])[1])  # type: ignore[index]
    now[0] = 1.5
    log.append({"status": 200})
    log.append({"status": 200})
    assert read_head(files.head) == Head(6, parse_line(lines_of(files.path)[5])[1])  # type: ignore[index]
    log.sync()
    assert not check_log(files).faults
    files.path.write_bytes(b"".join(lines_of(files.path)[:-1]))
    assert check_log(files).faults


def _write_many(folder: Path, own: str) -> None:
    log = ChainedLog(files_in(folder, max_bytes=4000, kept=50))
    for number in range(60):
        log.append({"kind": own, "number": number})


def test_two_processes_write_one_chain(tmp_path: Path) -> None:
    start = multiprocessing.get_context("fork")
    writers = [start.Process(target=_write_many, args=(tmp_path, own)) for own in ("filter", "release")]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    found = check_log(files_in(tmp_path, max_bytes=4000, kept=50))
    assert (found.faults, found.lines) == ([], 120)


def test_a_log_that_does_not_exist_yet_is_no_fault_and_one_that_vanished_is(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    assert check_log(files) == Checked()
    written(files, 2)
    shutil.rmtree(files.path.parent)
    assert "were removed" in check_log(files).faults[0]


def test_the_commands_print_heads_find_edits_and_compare_noted_heads(cdtl: Cdtl, tmp_path: Path) -> None:
    assert cdtl("site", "init", "north", "--name", "north", "--modality", "ultrasound", "--phantom", "12").code == 0
    logs = site_logs(tmp_path / "north")
    for files in logs.values():
        written(files, 3)
    done = cdtl("site", "log", "verify", "north")
    assert done.code == 0, done.err
    head = next(line.split()[1] for line in done.out.splitlines() if line.startswith("  head egress:3:"))
    assert cdtl("site", "log", "verify", "north", "--noted", head).code == 0
    assert cdtl("site", "log", "verify", "north", "--noted", head[:-2] + "zz").code == 6
    assert cdtl("site", "log", "verify", "north", "--noted", "egress").code == 2
    moved_line(logs["approvals"].path, Random(0))
    done = cdtl("site", "log", "verify", "north", "--json")
    assert done.code == 6
    assert json.loads(done.out)["approvals"]["faults"]
    assert not json.loads(done.out)["egress"]["faults"]
    assert cdtl("server", "init", "hub", "--name", "localhost").code == 0
    written(server_logs(tmp_path / "hub")["access"], 3)
    assert "access: whole; 3 lines" in cdtl("server", "log", "verify", "hub").out
