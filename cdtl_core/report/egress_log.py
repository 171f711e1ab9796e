"""Summary of a site's egress log for its report."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdtl_core.deploy.records import egress_files
from cdtl_core.report.charts.figure import Table
from cdtl_core.report.page import Block, Note
from cdtl_core.results.text import bytes_text
from cdtl_core.system.chained import LogFiles

__all__ = ["logged_lines", "logged_traffic"]


def logged_traffic(home: Path) -> list[Block]:
    """Return replies by run and verdict, requests by kind, and refusals; empty without a log."""
    lines = logged_lines(home)
    if not lines:
        return []
    replies: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()
    requests: Counter[str] = Counter()
    amounts: Counter[str] = Counter()
    for line in lines:
        if line["kind"] == "reply":
            key = (str(line.get("run", "")), str(line.get("type", "")), str(line.get("verdict", "")))
            replies[key] += 1
            sizes[key] += int(line.get("bytes", 0))
        for name, sent in line.get("requests", {}).items():
            requests[name] += sent["count"]
            amounts[name] += sent["bytes"]
    refused = sum(line["kind"] == "refused" for line in lines)
    told = [
        (run, kind, verdict, str(n), bytes_text(sizes[run, kind, verdict]))
        for (run, kind, verdict), n in replies.items()
    ]
    went = [(name, str(count), bytes_text(amounts[name])) for name, count in requests.most_common()]
    blocks: list[Block] = []
    if told:
        headers = ("run", "type", "verdict", "replies", "bytes")
        blocks.append(Table("Replies and the filter's verdict", headers, told, numbers=3))
    if went:
        blocks.append(Table("All requests to the coordinator", ("request", "count", "bytes"), went))
    total = bytes_text(sum(amounts.values()))
    what = f"In all {total} left in the bodies of requests: the messages below, cut into parts, and questions for work."
    blocks.append(Note(f"{what} Requests that the filter refused: {refused}."))
    return blocks


def logged_lines(home: Path, files: LogFiles | None = None) -> list[dict[str, Any]]:
    """Return all stored lines, by default of the egress log, the oldest first; damaged lines are left out."""
    return list(_lines(files or egress_files(home)))


def _lines(files: LogFiles) -> Iterator[dict[str, Any]]:
    for path in (*(files.older(number) for number in range(files.kept, 0, -1)), files.path):
        if not path.exists():
            continue
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "kind" in line:
                yield line
