"""Benchmarks that are programs of their own, in the checkout's folder ``benchmarks``."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cdtl_core.errors import CdtlError
from cdtl_core.system.shipped import bundle_root

__all__ = ["figures_of"]


def figures_of(script: str, *arguments: object) -> dict[str, Any] | None:
    """Return what a script writes to its ``--out``; None without a checkout.

    Its exit code only says whether a bar was met.

    Raises:
        CdtlError: It wrote nothing; the sentence ends with its last lines.
    """
    path = bundle_root() / "benchmarks" / script
    if not path.exists():
        return None
    with tempfile.TemporaryDirectory(prefix="cdtl-bench-") as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, str(path), *map(str, arguments), "--out", str(out)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(bundle_root()), os.environ.get("PYTHONPATH", "")]),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
        if not out.exists():
            raise CdtlError(f"{script} wrote no figures: {' / '.join(done.stderr.splitlines()[-5:])}.")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found
