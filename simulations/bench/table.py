"""The table that a person reads and the JSON that a program reads."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from simulations.bench.row import Measured, Row, verdict

__all__ = ["entry_of", "table_page", "table_text"]

_WIDTH = 118


def entry_of(row: Row, measured: Measured, **about: object) -> dict[str, Any]:
    """A row's entry in the JSON: the row, what it gave, whether the bar was met, and how it was measured."""
    return {
        "what": row.what,
        "bar": row.bar,
        "sense": row.sense,
        "unit": row.unit,
        "value": measured.value,
        "verdict": verdict(row, measured),
        "note": measured.note,
        "floor": measured.floor,
        "figures": dict(measured.figures),
        **about,
    }


def table_text(rows: Sequence[Row], entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Every row with its bar, its value and its verdict; below it the figures, and what stops it where it is missed."""
    head = f"{'row':<22} {'bar':>9} {'measured':>9}  {'':<8} what"
    lines = [head, "-" * _WIDTH]
    for row in rows:
        entry = entries.get(row.name)
        if entry is None:
            lines.append(f"{row.name:<22} {_bar(row):>9} {'':>9}  {'not run':<8} {row.what}")
            continue
        lines.append(f"{row.name:<22} {_bar(row):>9} {_number(entry['value']):>9}  {entry['verdict']:<8} {row.what}")
        lines += _indented(str(entry["note"]))
        if entry["floor"] and entry["verdict"] == "missed":
            lines += _indented(f"floor: {entry['floor']}")
    return "\n".join(lines)


_PAGE = """# Benchmarks

What cdtl costs over a plain PyTorch loop, Flower's own simulation and NVFlare, on two idle cores. A value is the
median of runs that take turns with what they are compared to. Most are ratios, since machines differ.
`make bench NVFLARE=PYTHON` measures all rows in less than half an hour and writes this page; NVFlare has an environment
of its own (`simulations/bench/__main__.py` says how to make it). Most arms are played three times, those of training
and the cluster twice; `RUNS=5` plays these five times, too. The runs of each row stand below the table. Where a row is
missed, its floor is given: for most, what a plain program takes in the same turns that does only what must be done.

| command | what | bar | measured | | figures |
|---|---|---|---|---|---|
"""


def table_page(rows: Sequence[Row], entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of the docs: a row each with its command; below it, where and when it was measured."""
    lines, about = [], []
    for row in rows:
        entry = entries.get(row.name, {"value": None, "verdict": "not measured", "note": "", "floor": ""})
        floor = f"; floor: {entry['floor']}" if entry["floor"] and entry["verdict"] == "missed" else ""
        cells = (f"`python -m simulations.bench --rows {row.name}`", row.what, _bar(row), _number(entry["value"]))
        lines.append(f"| {' | '.join(cells)} | {entry['verdict']} | {entry['note']}{floor} |")
        if "commit" in entry:
            about.append(f"{row.name} {entry['commit']} ({entry['at']}, {entry['runs']} runs, {entry['cores']} cores)")
    return _PAGE + "\n".join([*lines, "", f"Commits: {', '.join(about)}." if about else "Not measured yet.", ""])


def _bar(row: Row) -> str:
    unit = "" if row.unit == "x" else f" {row.unit}"
    return f"{'<=' if row.sense == 'at most' else '>='} {row.bar:g}{unit.rstrip()}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * 24, subsequent_indent=" " * 24)
