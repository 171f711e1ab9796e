"""Small federations of synthetic images, for tests that need one."""

import fcntl
import hashlib
import os
import shutil
import sys

# Before torch: see cdtl_core.system.program. The tests' networks are so small that a second thread only costs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flwr.app import Message
from hypothesis import settings

from cdtl_core.cli.main import main
from cdtl_core.config import SimulationConfig
from cdtl_core.data.decode import reader
from cdtl_core.results.report import Report
from cdtl_core.simulation.inprocess import InProcessGrid
from cdtl_core.simulation.simulate import simulate
from tests.stub import STUB

os.fsync = lambda _: None  # no power is cut in a test, and each call costs some 5 ms

# HYPOTHESIS_PROFILE chooses: few examples while one works, more in CI.
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

TINY_RUN: dict[str, Any] = {
    "name": "tiny",
    "image": {"size": 32},
    "model": {"backbone": STUB, "weights": "random"},
    "train": {"steps": 2, "batch_size": 4},
    "federation": {"rounds": 3},
    "blend": {"settle": 1},
}
TINY_SITES = [
    {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16, "seed": 1}}},
    {"site": "bari", "modality": "ultrasound", "data": {"phantom": {"patients": 12, "seed": 2}}},
    {"site": "como", "modality": "histology", "data": {"phantom": {"patients": 12, "seed": 3}}},
]


class Tries:
    """Number of attempts of an attack, for the table of ``make attack``."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, count: int = 1) -> None:
        """Count `count` more attempts."""
        self.count += count


_TRIES = pytest.StashKey[Tries]()


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Tries:
    """The counter of this attack; a test without it counts as one attempt."""
    counter = Tries()
    request.node.stash[_TRIES] = counter
    return counter


Figures = Callable[[str, str], None]
_FIGURE = "figure: "


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Call it with what was measured and its value; all are printed as one table at the end."""
    return lambda what, value: record_property(_FIGURE + what, value)


_LONGEST = {
    "test_disk", "test_played_again", "test_database", "test_check", "test_compare", "test_coordinated", "test_exams",
    "test_export", "test_federation", "test_imports", "test_private", "test_site_dialogue",
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

    Those of tests/faults come before them: they fork a process in which torch may not have trained yet.
    """

    def order(item: pytest.Item) -> tuple[bool, ...]:
        name, forks = item.path.stem, item.path.parent.name == "faults"
        marks = item.get_closest_marker("alone"), forks, name in _LONGEST, item.get_closest_marker("slow")
        return tuple(not mark for mark in marks)

    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        if room in _OF_WHOLES or "played" in item.fixturenames:  # type: ignore[attr-defined]
            item.add_marker("integration")
    items.sort(key=order)


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Put an attack (``@pytest.mark.attack(PROPERTY, ATTACK)``) and its tries into the report.

    Reports travel from the processes that run the tests to the one that prints the table.
    """
    report = yield
    if mark := item.get_closest_marker("attack"):
        counter = item.stash.get(_TRIES, None)
        report.user_properties.append(("attack", [*mark.args, counter.count if counter else 1]))  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests measured, and the table of attacks."""
    said = [one for report in _reports(terminalreporter) for one in report.user_properties]
    if found := {what.removeprefix(_FIGURE): value for what, value in said if what.startswith(_FIGURE)}:
        terminalreporter.section("figures")
        width = max(map(len, found))
        for what, value in found.items():
            terminalreporter.write_line(f"{what:<{width}}  {value}")
    _print_attacks(terminalreporter)


def _print_attacks(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table: property, attack, tries, held; rows of one attack are added up."""
    rows: dict[tuple[str, str], tuple[int, set[str]]] = {}
    for report in _reports(terminalreporter):
        for _, (name, attack, count) in (one for one in report.user_properties if one[0] == "attack"):
            total, outcomes = rows.get((name, attack), (0, set()))
            rows[name, attack] = (total + count, outcomes | {report.outcome})
    if not rows:
        return
    widths = [max(len(key[i]) for key in rows) for i in (0, 1)]
    terminalreporter.section("attacks")
    for (name, attack), (count, outcomes) in sorted(rows.items()):
        held = "BROKEN" if "failed" in outcomes else "skipped" if "skipped" in outcomes else "held"
        terminalreporter.line(f"{name:{widths[0]}}  {attack:{widths[1]}}  {count:7d}  {held}")


def _reports(terminalreporter: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    """Reports of tests, and of fixtures that failed or skipped a test."""
    for kind in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(kind, []):
            if isinstance(report, pytest.TestReport) and (report.when == "call" or report.outcome != "passed"):
                yield report


class Done(NamedTuple):
    """Result of a command."""

    code: int
    out: str
    err: str


Cdtl = Callable[..., Done]


@pytest.fixture
def cdtl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cdtl:
    """Call the real `main` as the installed command does, in a folder of its own."""
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


@pytest.fixture(scope="session")
def tiny() -> Callable[..., SimulationConfig]:
    """Build a federation of three tiny sites; keyword arguments replace tables of the run."""

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


Played = Callable[[SimulationConfig], Run]


def _written(folder: Path) -> str:
    """A digest over names, sizes and times of all files below a folder."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.sha256(repr([(str(p), s.st_size, s.st_mtime_ns) for p, s in found]).encode()).hexdigest()


def _play(config: SimulationConfig, out: Path) -> Run:
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
