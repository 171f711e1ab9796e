"""Tables after the tests: what they measured, and the attacks with their numbers of attempts."""

from collections.abc import Callable, Iterator

import pytest


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
