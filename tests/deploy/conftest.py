"""A site's application, a coordinator's folder, and the figures that tests of real processes measure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.deploy.enrolment import Enrolment, make_enrolment
from cdtl_core.deploy.keys import load_key, make_key
from cdtl_core.federation.contract import ModalityContract
from tests.deploy.border import border
from tests.deploy.desk import desk, open_desk
from tests.deploy.entrance import coordinator, enrolled, north

__all__ = ["border", "coordinator", "desk", "enrolled", "north", "open_desk"]

Figures = Callable[[str, str], None]
_FIGURE = "figure: "


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Call it with what was measured and its value; all are printed as one table at the end."""
    return lambda what, value: record_property(_FIGURE + what, value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    said = [one for report in reports for one in report.user_properties if one[0].startswith(_FIGURE)]
    if found := {what.removeprefix(_FIGURE): value for what, value in said}:
        terminalreporter.section("figures")
        width = max(map(len, found))
        for what, value in found.items():
            terminalreporter.write_line(f"{what:<{width}}  {value}")


def contract(site: str, **fields: Any) -> ModalityContract:
    base = {
        "site": site,
        "modality": "ultrasound",
        "labels": ["benign", "malignant"],
        "positive": "malignant",
        "channels": 1,
        "bit_depth": 8,
        "patients": 120,
    }
    return ModalityContract.model_validate({**base, **fields})


@pytest.fixture
def enrol(tmp_path: Path) -> Any:
    """Make a site's key (once for each folder) and its enrolment."""

    def make(site: str, *, folder: str | None = None, **fields: Any) -> Enrolment:
        home = tmp_path / (folder or site)
        key = load_key(home) if (home / "site.key").exists() else make_key(home)
        return make_enrolment(key, contract(site, **fields))

    return make
