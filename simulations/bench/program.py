"""One run of an arm as a program of its own, watched: what it took, and what it said of itself."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdtl_core.errors import CdtlError
from cdtl_core.system.program import set_thread_defaults
from cdtl_core.system.shipped import bundle_root

__all__ = ["Run", "play", "python_program"]

_PSS_EVERY_S = 0.1
_LAST_LINES = 15


@dataclass(frozen=True)
class Run:
    """Resources that a program and its children took.

    Attributes:
        wall_s: From its start to its end.
        cpu_s: Of all processors, user and system.
        peak_pss: Bytes, 0 if memory was not looked at.
        said: What it wrote of itself.
    """

    wall_s: float
    cpu_s: float
    peak_pss: int
    said: Mapping[str, Any] = field(default_factory=dict)


def python_program(module: str, *arguments: object, python: str = sys.executable) -> list[str]:
    """The command that runs a module."""
    return [python, "-m", module, *map(str, arguments)]


def play(command: Sequence[str], *, memory: bool = False, timeout_s: float = 600.0, **env: object) -> Run:
    """Run a program to its end in an empty folder that is removed afterwards.

    Args:
        command: The program; ``{folder}`` in an argument stands for the folder, what it writes to ``{said}`` (JSON) is
            its own report.
        memory: Whether to look at its memory, which takes some time of a processor.
        timeout_s: After which it is ended.
        env: Added to its environment.

    Raises:
        CdtlError: It failed or took too long; the sentence ends with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="cdtl-bench-", ignore_cleanup_errors=True) as name:
        folder, figures, said = Path(name) / "run", Path(name) / "figures.json", Path(name) / "said.json"
        folder.mkdir()
        given = [part.replace("{folder}", str(folder)).replace("{said}", str(said)) for part in command]
        nanny = python_program("simulations.bench.nanny", figures, _PSS_EVERY_S if memory else 0, *given)
        log = Path(name) / "log"
        with open(log, "wb") as file:
            process = subprocess.Popen(  # noqa: S603
                nanny, cwd=folder, env=_environment(env), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
            try:
                code = process.wait(timeout_s)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if code:
            last = " / ".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
            raise CdtlError(f"{' '.join(command[:6])} ended with code {code}: {last}.")
        found = json.loads(figures.read_text())
        words = json.loads(said.read_text()) if said.exists() else {}
    return Run(found["wall_s"], found["cpu_s"], found["peak_pss"], words)


def _environment(own: Mapping[str, object]) -> dict[str, str]:
    set_thread_defaults()
    path = os.pathsep.join(filter(None, (str(bundle_root()), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, **{name: str(value) for name, value in own.items()}}
