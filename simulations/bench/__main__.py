"""Measure the rows, print the table, write the JSON.

    python -m simulations.bench [--rows a,b] [--runs 5] [--nvflare PYTHON] [--json FILE] [--table FILE.md]

`make bench` plays three runs, and two of what takes longest (`Session.long_runs`). NVFlare is optional and has an
environment of its own: ``python -m venv nv``, a file ``nv/lib/python3.*/site-packages/torch.pth`` with the path of this
environment's site-packages, ``nv/bin/pip install nvflare``, then ``--nvflare nv/bin/python``.
Rows that FILE already holds stay in it and in the table, so that the rows can be measured in several calls. Exit code 1
if a measured row misses its bar.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdtl_core.errors import CdtlError
from cdtl_core.system.program import num_cores, set_thread_defaults
from cdtl_core.system.shipped import bundle_root
from simulations.bench.row import Row
from simulations.bench.table import entry_of, table_page, table_text

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 if a row misses its bar, 2 for a wrong option."""
    set_thread_defaults()
    from simulations.bench.rows import ROWS
    from simulations.bench.session import Session

    options = _options(arguments)
    names = [row.name for row in ROWS]
    wanted = options.rows.split(",") if options.rows else names
    if unknown := [name for name in wanted if name not in names]:
        sys.stderr.write(f"there is no row '{unknown[0]}': use one of {', '.join(names)}\n")
        return 2
    rows = [row for row in ROWS if row.name in wanted]
    entries: dict[str, Any] = {}
    if options.json and options.json.exists():
        entries = json.loads(options.json.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="cdtl-bench-", ignore_cleanup_errors=True) as folder:
        session = Session(Path(folder), options.runs, options.nvflare, say=_say)
        for row in rows:
            entries[row.name] = _measured(row, session, rows)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table_text(ROWS, entries) + "\n")
    if options.table:
        options.table.write_text(table_page(ROWS, entries), encoding="utf-8")
    return int(any(entries[row.name]["verdict"] == "missed" for row in rows))


def _measured(row: Row, session: Any, rows: Sequence[Row]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        session.play_for(rows if row.needs else [])
        found = row.measure(session)
    except CdtlError as error:
        from simulations.bench.row import Measured

        found = Measured(None, str(error))
    entry = entry_of(row, found, runs=found.runs or session.runs, seconds=round(time.monotonic() - began), **_about())
    value = "-" if found.value is None else f"{found.value:.3g}"
    _say(f"{row.name}: {value} ({entry['verdict']}), {entry['seconds']} s")
    return entry


def _about() -> dict[str, object]:
    """Return where and on what a row was measured."""
    asked = ["git", "-C", str(bundle_root()), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    return {"commit": commit, "at": at, "cores": num_cores(), "machine": platform.machine()}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulations.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="", help="only these, e.g. bytes,commands; default all")
    parser.add_argument(
        "--runs", type=int, default=5, help="of each arm, in turn (default 5); below 5 two of long ones"
    )
    parser.add_argument("--nvflare", type=Path, help="the Python of an environment with nvflare and this torch")
    parser.add_argument("--json", type=Path, help="write the figures here; rows it holds already stay")
    parser.add_argument("--table", type=Path, help="write the rows as a page of the docs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
