"""One browser for the walks through both desks, and desks as real processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.desk.browser.chromium import Browser

ROOT = Path(__file__).parents[3]


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium; screenshots are left in CDTL_SHOTS."""
    found = Browser(Path(os.environ.get("CDTL_SHOTS") or tmp_path_factory.mktemp("shots")))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def desk_of() -> Iterator[Callable[..., str]]:
    """Start a desk by its command, such as ``desk_of("site", home)``; returns the link that it prints."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str, home: Path) -> str:
        command = [sys.executable, "-m", "cdtl_core.cli.main", kind, "desk", str(home)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, env=env, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        link = next(line for line in process.stdout if "/enter/" in line)
        return link.strip()

    yield start
    for process in started:
        process.terminate()
        assert process.wait(timeout=30) == 0
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
