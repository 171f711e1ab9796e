"""Studies of `simulations.studies` that give a row."""

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


def figures_of(study: str, *arguments: object) -> dict[str, Any]:
    """Return what a study writes to its ``--out``; its exit code only says whether a bar was met.

    Raises:
        CdtlError: It wrote nothing; the sentence ends with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="cdtl-bench-") as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"simulations.studies.{study}", *map(str, arguments), "--out", str(out)]
        path = os.pathsep.join([str(bundle_root()), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
        if not out.exists():
            raise CdtlError(f"{study} wrote no figures: {' / '.join(done.stderr.splitlines()[-5:])}.")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found
