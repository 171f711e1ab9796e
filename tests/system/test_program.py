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
    assert found[COMMAND + say].stdout.splitlines()[-1] == "700000"


SPY = """
print("spied")
def begin(): pass
class plugin:
    def new_schema_validator(*schema): return None, None, None
"""


def test_torch_and_pydantic_run_no_extension_of_an_installed_package(tmp_path: Path) -> None:
    meta = tmp_path / "spy-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[pydantic]\nspy = spy:plugin\n[torch.backends]\nspy = spy:begin\n")
    (tmp_path / "spy.py").write_text(SPY)
    load = "\nimport cdtl_core.config, torch\ncdtl_core.config.RunConfig()"
    told = {}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYDANTIC_", "TORCH_"))}
    for begin in ("", COMMAND):
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{begin}{load}"]
        told[begin] = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    assert "spied" in told[""]
    assert "spied" not in told[COMMAND]


def test_after_its_first_search_for_garbage_a_program_searches_more_often() -> None:
    say = (
        "\nimport gc; gc.collect(0); print(gc.get_threshold(), len(gc.callbacks)); gc.collect(); print(gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", COMMAND + say], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["(200000, 10, 10) 0", "True"]


ENDS = """
import atexit, sys, threading
from concurrent.futures import ThreadPoolExecutor
from cdtl_core.system.program import end_program

class Kept:
    def __del__(self):
        print("taken apart", flush=True)

def say(text, after, done):
    after.wait()
    print(text)
    done.set()

kept = Kept()
atexit.register(print, "registered")
first, second, third = (threading.Event() for _ in range(3))
ThreadPoolExecutor(1).submit(say, "of a pool", first, second)
threading.Thread(target=say, args=("of a thread", second, third)).start()
threading.Timer(0.05, first.set).start()
print("no line break at the end", end="")
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_ends_as_python_ends_it_except_for_its_memory(code: int) -> None:
    """Threads, pools, registered functions, output that was not written, the code; in the same order."""
    ends = [
        subprocess.run([sys.executable, "-c", ENDS + end], cwd=ROOT, capture_output=True, text=True, check=False)
        for end in (f"sys.exit({code})", f"end_program({code})")
    ]
    plain, ours = (done.stdout for done in ends)
    assert plain == ours + "taken apart\n"
    assert ours == "no line break at the endof a pool\nof a thread\nregistered\n"
    assert [done.returncode for done in ends] == [code, code]


@pytest.mark.parametrize("under", [["cProfile", "-o"], ["coverage", "run", "--data-file"]], ids=lambda words: words[0])
def test_what_watches_a_program_keeps_its_result(under: list[str], tmp_path: Path) -> None:
    pytest.importorskip(under[0])
    command = [sys.executable, "-m", *under[:1], *under[1:], str(tmp_path / "found"), "-m", "cdtl_core.cli.main"]
    subprocess.run([*command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [path.stat().st_size > 1000 for path in tmp_path.iterdir()] == [True]


def test_output_that_cannot_be_written_is_said_as_python_says_it() -> None:
    code = "import sys; from cdtl_core.system.program import end_program; print('lost'); "
    found = []
    for end in ("sys.exit(0)", "end_program(0)"):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-c", code + end]
            done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        found.append((done.returncode, done.stderr))
    assert found[0] == found[1]
    assert found[0][0] != 0
    assert "No space left on device" in found[0][1]


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
