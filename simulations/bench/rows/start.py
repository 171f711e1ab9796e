"""Start time of the command line, and modules that importing the core loads."""

import subprocess
import sys
import time
from functools import partial

from simulations.bench.program import python_program
from simulations.bench.ratio import alternate, middle
from simulations.bench.row import Measured, Row
from simulations.bench.session import Session

__all__ = ["ROWS"]

_LOADED = "import sys, cdtl_core; print('torch' in sys.modules)"


def _help(session: Session) -> Measured:
    arms = {
        "help": partial(_seconds, python_program("cdtl_core.cli.main", "--help")),
        "python": partial(_seconds, [sys.executable, "-c", "pass"]),
    }
    found = alternate(arms, session.runs, warm=True)
    note = f"of which Python itself {middle(found['python']):.2f} s"
    return Measured(middle(found["help"]), note, found, "typer, rich and pydantic are imported")


def _torch(_session: Session) -> Measured:
    done = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True)  # noqa: S603
    return Measured(float(done.stdout.strip() == "True"), "1 if torch is loaded")


def _seconds(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    return time.monotonic() - began


ROWS = (
    Row("help", "cdtl --help", 0.5, _help, unit="s", minutes=0.2),
    Row("import", "import cdtl_core loads torch", 0.0, _torch, unit="", minutes=0.1),
)
