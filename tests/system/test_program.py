"""Settings of threads are made before torch is loaded, in every process of cdtl; the others by its programs only."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cdtl_core.flower import flower_environment
from cdtl_core.system.program import num_cores

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
from cdtl_core.cli.main import main
sys.argv = ["cdtl", "--version"]
try:
    main()
except SystemExit:
    pass
"""
STARTS = {"command": COMMAND, "server": "import server.app", "site": "import client.app"}
SAY = "\nimport os, sys; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'], os.environ['OMP_NUM_THREADS'])"


def said(code: str, **own: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-c", code + SAY]
    done = subprocess.run(command, env={**env, **own}, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("start", STARTS)
def test_threads_are_settled_before_torch_is_imported(start: str) -> None:
    assert said(STARTS[start]) == ["False", "passive", str(num_cores())]


@pytest.mark.parametrize("start", STARTS)
def test_a_users_own_setting_wins(start: str) -> None:
    assert said(STARTS[start], OMP_WAIT_POLICY="active", OMP_NUM_THREADS="3") == ["False", "active", "3"]


def test_flowers_processes_inherit_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert flower_environment({})["OMP_NUM_THREADS"] == "3"


def test_only_a_program_of_cdtl_changes_how_its_process_looks_for_garbage() -> None:
    say = "\nimport gc; print(gc.get_threshold()[0])"
    began = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True).stdout
    library = "import cdtl_core; cdtl_core.simulate" + say
    found = {
        code: subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        for code in (library, COMMAND + say)
    }
    assert found[library].stdout == began
    assert found[COMMAND + say].stdout.splitlines()[-1] == "200000"


needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
MEMORY = """
import resource
from cdtl_core.system.program import give_back_memory, keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

SIZE = 8 << 20
KEEP
b"x" * SIZE
before = faults()
for _ in range(10):
    b"x" * SIZE
again = faults() - before
held = [b"x" * SIZE for _ in range(72)]
del held
kept = resident()
give_back_memory()
print(again, kept - resident())
"""


def memory(keep: str, **env: str) -> list[int]:
    command = [sys.executable, "-c", MEMORY.replace("KEEP", keep)]
    env = {**{name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}, **env}
    found = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [int(part) for part in found.split()]


@needs_glibc
def test_memory_that_is_kept_is_used_again_and_given_back_beyond_a_bound() -> None:
    """Ten blocks of 8 MB in turn, then 72 at once: 576 MB."""
    again, given = memory("keep_freed_memory()")
    assert given > 500
    for faults, _ in (memory(""), memory("keep_freed_memory()", MALLOC_ARENA_MAX="2")):  # a user's own setting wins
        assert again < faults / 10
