"""Small federations of synthetic images, for tests that need one."""

from __future__ import annotations

import fcntl
import functools
import gc
import hashlib
import itertools
import os
import shutil
import sys

# Before torch: see cdtl_core.system.program. The tests' networks are so small that a second thread only costs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pytest
from hypothesis import settings

from tests.tables import figures, pytest_runtest_makereport, pytest_terminal_summary, tries

if TYPE_CHECKING:  # pytest-xdist's first process runs no test: it begins seconds earlier without what tests need
    from flwr.app import Message

    from cdtl_core.config import SimulationConfig
    from cdtl_core.results.report import Report

__all__ = ["figures", "pytest_runtest_makereport", "pytest_terminal_summary", "tries"]

os.fsync = lambda _: None  # no power is cut in a test, and each call costs some 5 ms

# HYPOTHESIS_PROFILE chooses: few examples while one works, more in CI.
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

TINY_RUN: dict[str, Any] = {
    "name": "tiny",
    "image": {"size": 32},
    "model": {"backbone": "stub_net", "weights": "random"},
    "train": {"steps": 2, "batch_size": 4},
    "federation": {"rounds": 3},
    "blend": {"settle": 1},
}
TINY_SITES = [
    {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16, "seed": 1}}},
    {"site": "bari", "modality": "ultrasound", "data": {"phantom": {"patients": 12, "seed": 2}}},
    {"site": "como", "modality": "histology", "data": {"phantom": {"patients": 12, "seed": 3}}},
]


_LONGEST = {
    "test_audit", "test_check", "test_compare", "test_coordinated", "test_database", "test_disk", "test_exams",
    "test_export", "test_federation", "test_filter_limits", "test_filter_outages", "test_imports",
    "test_played_again", "test_plugins_deployed", "test_private", "test_program", "test_site_dialogue",
}  # fmt: skip
_OF_WHOLES = {
    "cli",
    "coordinator",
    "deploy",
    "desk",
    "faults",
    "first_hour",
    "gpu",
    "images",
    "pacs",
    "quality",
    "report",
    "simulation",
}
"""Rooms whose tests put whole parts together: integration tests, as is each test of a finished run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files early: where processes share the files, none is left alone with a long one at the end.

    Those of tests/faults come before them: they fork a process in which torch may not have trained yet. Files with slow
    tests, most of which wait for deployed programs, take turns with files that compute.
    """
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        if room in _OF_WHOLES or "played" in item.fixturenames:  # type: ignore[attr-defined]
            item.add_marker("integration")
    files = {item.path: item for item in items if item.get_closest_marker("slow")}
    waiting, computing = itertools.count(), itertools.count()

    def place(path: Path) -> tuple[int, int]:
        if path.parent.name == "faults" or (path in files and files[path].get_closest_marker("alone")):
            return 0, 0
        if path.stem in _LONGEST:
            return 1, next(computing)
        return (1, next(waiting)) if path in files else (2, 0)

    places = {path: place(path) for path in dict.fromkeys(item.path for item in items)}
    items.sort(key=lambda item: places[item.path])


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out rooms that hold no test of the wanted tier: what they import takes a second in each process."""
    parts = collection_path.relative_to(config.rootpath).parts
    is_whole = len(parts) == 2 and parts[0] == "tests" and parts[1] in _OF_WHOLES
    return True if is_whole and "not integration" in config.option.markexpr else None


def pytest_collection_finish() -> None:
    """What is loaded now stays: looking through it for garbage would take a tenth of the tests' time."""
    import tests.stub  # noqa: F401 - timm knows the network by its name

    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


_UNIT: list[str] = []
"""The unit test that runs now."""


def _no_process(event: str, arguments: object) -> None:
    started = event in {"subprocess.Popen", "os.fork", "os.posix_spawn"} and "reader_process" not in repr(arguments)
    if _UNIT and started:  # images of some formats are read in a process of the product's own
        raise RuntimeError(f"{_UNIT[0]} starts a process: mark it integration")


sys.addaudithook(_no_process)


def pytest_sessionfinish() -> None:
    """No test runs any more. Readers end by themselves, so that coverage counts what they ran."""
    _UNIT.clear()
    if reader := sys.modules.get("cdtl_core.data.decode.reader"):
        for process in reader._idle:
            process.communicate()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """A test marked ``alone`` waits until the tests of other processes have ended, and keeps the next ones waiting."""
    _UNIT[:] = [] if any(map(item.get_closest_marker, ("integration", "slow"))) else [item.nodeid]
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    folder = item.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]
    with open(folder / "next.lock", "w") as next_turn, open(folder / "turn.lock", "w") as turn:
        fcntl.flock(next_turn, fcntl.LOCK_EX)
        fcntl.flock(turn, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(next_turn, fcntl.LOCK_UN)
        return (yield)


class Done(NamedTuple):
    """Result of a command."""

    code: int
    out: str
    err: str


Cdtl = Callable[..., Done]


@pytest.fixture
def cdtl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cdtl:
    """Call the real `main` as the installed command does, in a folder of its own."""
    from cdtl_core.cli.main import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["cdtl", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session", autouse=True)
def _phantoms_drawn_once() -> None:
    """Sites of one form get the files that the first of them has drawn. Tests of the drawing import it before this."""
    from cdtl_core.data.synthetic import writing

    draw, known = writing.write_phantoms, dict[str, dict[Path, bytes]]()

    @functools.wraps(draw)
    def write(folder: Path, **form: Any) -> Path:
        if repr(form) not in known:
            manifest = draw(folder, **form)
            files = sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest)
            known[repr(form)] = {path.relative_to(folder): path.read_bytes() for path in (*files, manifest)}
            return manifest
        for path, content in known[repr(form)].items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder / "manifest.csv"

    writing.write_phantoms = write


@pytest.fixture(scope="session")
def tiny() -> Callable[..., SimulationConfig]:
    """Build a federation of three tiny sites; keyword arguments replace tables of the run."""
    from cdtl_core.config import SimulationConfig

    def build(*, methods: tuple[str, ...] = ("cdtl",), sites: list[Any] = TINY_SITES, **run: Any) -> SimulationConfig:
        merged = {
            key: {**value, **run.pop(key, {})} if isinstance(value, dict) else value for key, value in TINY_RUN.items()
        }
        return SimulationConfig.model_validate({"run": {**merged, **run}, "methods": methods, "sites": sites})

    return build


class Run(NamedTuple):
    """A finished simulation that many tests read: its folder, its report, and each message with its reply."""

    out: Path
    report: Report
    messages: list[tuple[Message, Message]]

    def copied(self, to: Path) -> Path:
        """A copy that a test may change; returns its folder."""
        return Path(shutil.copytree(self.out, to))


Played: TypeAlias = "Callable[[SimulationConfig], Run]"


def _written(folder: Path) -> str:
    """A digest over names, sizes and times of all files below a folder."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.sha256(repr([(str(p), s.st_size, s.st_mtime_ns) for p, s in found]).encode()).hexdigest()


def _play(config: SimulationConfig, out: Path) -> Run:
    from cdtl_core.simulation.inprocess import InProcessGrid
    from cdtl_core.simulation.simulate import simulate

    messages, pull = [], InProcessGrid.pull_messages

    def listening(grid: InProcessGrid, ids: Iterable[str]) -> Iterable[Message]:
        before = dict(grid._pending)
        replies = list(pull(grid, ids))
        messages.extend(zip([before[name] for name in before if name not in grid._pending], replies, strict=True))
        return replies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcessGrid, "pull_messages", listening)
        return Run(out, simulate(config, out), messages)


@pytest.fixture(scope="session")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, str]]:
    return {}


@pytest.fixture
def played(_runs: dict[str, tuple[Run, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The finished run of a configuration, played once per process and only ever read.

    A test that changes its run takes a copy (`Run.copied`); one that writes into the shared run fails.
    """
    used: list[str] = []

    def of(config: SimulationConfig) -> Run:
        key = config.model_dump_json()
        if key not in _runs:
            out = tmp_path_factory.mktemp("played") / "run"
            _runs[key] = _play(config, out), _written(out)
        used.append(key)
        return _runs[key][0]

    yield of
    for key in used:
        run, written = _runs[key]
        assert _written(run.out) == written, "the test changed a run that others read: let it take a copy"


@pytest.fixture
def data_root() -> Path:
    """The folder of real images, for checks that need them: ``CDTL_DATA=../shared/data``."""
    if "CDTL_DATA" not in os.environ:
        pytest.skip("needs real images: set CDTL_DATA to the folder that holds bus_bra, busi, mini_mias, ucsb_he")
    return Path(os.environ["CDTL_DATA"])
