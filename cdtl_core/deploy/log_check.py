"""Checks a log of `chained.py` for lines that were altered, removed, added or moved."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from cdtl_core.errors import CheckpointError
from cdtl_core.system.chained import Head, LogFiles, link, parse_line, read_head
from cdtl_core.system.durable import locked

__all__ = ["Checked", "check_log"]

_MOST = 20


@dataclass
class Checked:
    """The result of a check.

    Attributes:
        lines: Number of lines that belong to the chain.
        head: The last of them; note it elsewhere.
        first: Number of the oldest line; rotation has removed the lines before it.
        faults: Sentences, in the order of the files; a log with any fault cannot be trusted.
        remarks: Harmless findings: half a line left by a kill, lines of versions without hashes.
    """

    lines: int = 0
    head: Head = field(default_factory=Head)
    first: int = 1
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> int:
        """Number of lines that rotation has removed."""
        return self.first - 1


@dataclass
class _File:
    name: str
    file: IO[bytes]
    size: int
    newest: bool


def check_log(files: LogFiles, *, noted: Head | None = None) -> Checked:
    """Read a whole log, from the oldest file, and compare it with its head file.

    Args:
        files: Files of the log; another process may continue to write.
        noted: Number and hash of a line that was noted elsewhere: that line must be unchanged.

    Raises:
        OSError: A file cannot be read.
    """
    found, expected = Checked(), (noted.seq if noted else 0)
    with ExitStack() as stack:
        head, parts = _opened(files, stack)
        marks = {head.seq: "", expected: ""} if head else {expected: ""}
        for part in parts:
            _check_file(part, found, marks, head)
    _compare_head(files, found, head, marks, bool(parts))
    if noted:
        _compare_noted(found, noted, marks)
    del found.faults[_MOST:]
    return found


def _opened(files: LogFiles, stack: ExitStack) -> tuple[Head | None, list[_File]]:
    """Open the head and the files, oldest first, at one moment; writers wait if permissions allow it."""
    with ExitStack() as held:
        with suppress(CheckpointError):  # a copy on a read-only medium has no writer
            if files.head.parent.exists():
                held.enter_context(locked(files.head.parent, wait=True))
        parts = []
        for path in (*(files.older(number) for number in range(files.kept, 0, -1)), files.path):
            if path.exists():
                file = stack.enter_context(open(path, "rb"))
                parts.append(_File(path.name, file, os.fstat(file.fileno()).st_size, path == files.path))
        return read_head(files.head), parts


def _lines(part: _File) -> Iterator[bytes]:
    left = part.size
    while left > 0 and (line := part.file.readline(left)):
        left -= len(line)
        yield line


def _check_file(part: _File, found: Checked, marks: dict[int, str], head: Head | None) -> None:
    old = 0
    for number, line in enumerate(_lines(part), start=1):
        parsed = parse_line(line)
        if parsed is None and not line.endswith(b"\n") and part.newest:
            found.remarks.append(f"{part.name} ends in half a line, left by a kill; the next line replaces it.")
        elif parsed is None and not found.lines and b'"hash"' not in line:
            old += 1
        elif parsed is None:
            found.faults.append(f"{part.name} line {number} was altered or added: it is not as cdtl writes it.")
        else:
            _check_line(f"{part.name} line {number}", *parsed, found, number == 1, head)
            _mark(marks, parsed)
    if old:
        found.remarks.append(f"{part.name} has {old} lines without hashes: an earlier version wrote them.")
        if found.lines:
            found.faults.append(f"{part.name} begins with {old} lines that belong to no chain.")


def _mark(marks: dict[int, str], parsed: tuple[dict[str, Any], str]) -> None:
    if parsed[0]["seq"] in marks:
        marks[parsed[0]["seq"]] = parsed[1]


def _check_line(place: str, value: dict[str, Any], digest: str, found: Checked, opens: bool, head: Head | None) -> None:
    """Check one line against those in `found`."""
    before, number = found.head, value["seq"]
    if not found.lines:
        before = Head(number - 1, str(value.get("after", "")))
        found.first = number
        if number > (head.first if head else 1):
            found.faults.append(
                f"{place}: the lines before number {number} are missing, and rotation has not removed them."
            )
    if number != before.seq + 1:
        found.faults.append(
            f"{place} has number {number} where {before.seq + 1} belongs: lines were removed, added or moved."
        )
    elif opens != ("after" in value) or link(before.hash, value) != digest:
        found.faults.append(f"{place} (number {number}) was altered, or the line before it.")
    found.lines += 1
    found.head = Head(number, digest)


def _compare_head(files: LogFiles, found: Checked, head: Head | None, marks: dict[int, str], any_file: bool) -> None:
    if head is None:
        if found.lines > 1 or files.head.exists():
            found.faults.append(
                f"{files.head.name} for this log is missing or damaged: it holds the last line's number."
            )
    elif head.seq > found.head.seq or not any_file:
        found.faults.append(
            f"the log ends at number {found.head.seq}, but had {head.seq} lines: lines at its end were removed."
        )
    elif marks[head.seq] != head.hash:
        found.faults.append(f"number {head.seq} differs from the line in {files.head.name}: the log was written again.")


def _compare_noted(found: Checked, noted: Head, marks: dict[int, str]) -> None:
    if noted.seq < found.first:
        found.remarks.append(f"rotation has dropped number {noted.seq}, so it cannot be compared.")
    elif marks[noted.seq] != noted.hash:
        found.faults.append(f"number {noted.seq} differs from the noted line: the log was written again or cut.")
