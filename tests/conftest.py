"""Small federations of synthetic images, for tests that need one."""

import os
import sys

# Before torch: see cdtl_core.system.threads. The tests' networks are so small that a second thread only costs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cdtl_core.cli.main import main
from cdtl_core.config import SimulationConfig

TINY_RUN: dict[str, Any] = {
    "name": "tiny",
    "image": {"size": 32},
    "model": {"backbone": "test_efficientnet", "weights": "random"},
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
    """How many attempts one attack made, for the table of ``make attack``."""

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: where processes share the files, none is left alone with a long one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Put an attack (``@pytest.mark.attack(PROPERTY, ATTACK)``) and its tries into the report.

    Reports travel from the processes that run the tests to the one that prints the table.
    """
    report = yield
    if mark := item.get_closest_marker("attack"):
        counter = item.stash.get(_TRIES, None)
        report.user_properties.append(("attack", [*mark.args, counter.count if counter else 1]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
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
    """How a command ended."""

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


@pytest.fixture
def tiny() -> Callable[..., SimulationConfig]:
    """Build a federation of three tiny sites; keyword arguments replace tables of the run."""

    def build(*, methods: tuple[str, ...] = ("cdtl",), sites: list[Any] = TINY_SITES, **run: Any) -> SimulationConfig:
        merged = {
            key: {**value, **run.pop(key, {})} if isinstance(value, dict) else value for key, value in TINY_RUN.items()
        }
        return SimulationConfig.model_validate({"run": {**merged, **run}, "methods": methods, "sites": sites})

    return build


@pytest.fixture
def data_root() -> Path:
    """The folder of real images, for checks that need them: ``CDTL_DATA=../shared/data``."""
    if "CDTL_DATA" not in os.environ:
        pytest.skip("needs real images: set CDTL_DATA to the folder that holds bus_bra, busi, mini_mias, ucsb_he")
    return Path(os.environ["CDTL_DATA"])
