"""The table of faults: every test of the rig adds to it; printed at the end, and saved as JSON on request."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from tests.faults.rig import Fault, undisturbed

_TABLE = pytest.StashKey[dict[str, Fault]]()
_HEADERS = ("fault", "tried", "survived", "repeated rounds", "lost updates")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = {}


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[[str], Fault]:
    """The line of the table with this name."""
    table = request.config.stash[_TABLE]
    return lambda name: table.setdefault(name, Fault(name))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[SimulationConfig], Path]:
    """The undisturbed run of a configuration, played once."""
    played: dict[str, Path] = {}

    def of(config: SimulationConfig) -> Path:
        key = config.model_dump_json()
        if key not in played:
            played[key] = undisturbed(config, tmp_path_factory.mktemp("whole") / "run")
        return played[key]

    return of


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = list(config.stash.get(_TABLE, {}).values())
    if not table:
        return
    rows = [one.row() for one in table]
    terminalreporter.section("faults")
    for line in (_HEADERS, tuple("---" for _ in _HEADERS), *rows):
        terminalreporter.write_line("| " + " | ".join(map(str, line)) + " |")
    kills = sum(one.kills for one in table)
    terminalreporter.write_line(f"kill -9 in all: {kills}; lost in all: {sum(one.lost for one in table)}")
    if path := os.environ.get("CDTL_FAULTS_JSON"):
        Path(path).write_text(json.dumps([vars(one) for one in table], indent=1))
