"""Modules that a site's process loads for each message, since each message starts a process."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

HEAVY = (
    "sklearn",
    "scipy.optimize",
    "scipy.ndimage",
    "scipy.stats",
    "pydicom",
    "typer",
    "starlette",
    "uvicorn",
    "jinja2",
)
SCRIPT = f"""
import sys
import client.app
print("torch" in sys.modules)
before = set(sys.modules)
import cdtl_core.site.session
print(*(name for name in {HEAVY!r} if name in set(sys.modules) - before))
"""


def test_the_app_loads_torch_late_and_a_round_loads_nothing_heavy_beside_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n") == ["False", "", ""]
