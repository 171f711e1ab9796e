"""When a pull asks and how fast: the hours that a hospital allows, studies and megabytes per minute."""

from datetime import datetime
from pathlib import Path

import pytest

from cdtl_core.pacs.pace import Pace, Stopped, Window
from cdtl_core.pacs.pull import pull
from cdtl_core.pacs.query import Asked, Query
from cdtl_core.pacs.settings import load_pacs
from tests.pacs.peers import SmallPacs
from tests.pacs.studies import known


def test_a_window_crosses_midnight_and_waits_with_a_sentence() -> None:
    window = Window.parse("20:00-06:00")
    at = lambda hour, minute=0: datetime(2026, 1, 2, hour, minute)  # noqa: E731
    assert [bool(window.opens_in(at(hour))) for hour in (19, 20, 23, 0, 5, 6)] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert window.opens_in(at(12)).total_seconds() == 8 * 3600
    said: list[str] = []
    pace = Pace(window="20:00-06:00", tell=said.append, now=lambda: at(19, 30))
    pace.stop()
    with pytest.raises(Stopped):
        pace.begin()
    assert said == ["Outside the time window: waiting until 20:00 (30 min)."]


def test_studies_and_megabytes_per_minute_space_the_studies() -> None:
    time = [0.0]
    pace = Pace(studies_per_minute=60, mb_per_minute=60, clock=lambda: time[0])
    waits: list[float] = []
    pace.sleep = waits.append  # type: ignore[method-assign]
    pace.begin()
    pace.begin()
    pace.count(3_000_000)
    pace.begin()
    assert [wait for wait in waits if wait] == [1.0, 5.0]


class _Clock:
    """Night, until so many questions were asked; at noon the pull is ended by the sentence about the window."""

    def __init__(self, pacs: SmallPacs, questions: int) -> None:
        self.pacs, self.questions = pacs, questions
        self.pace = Pace(window="20:00-06:00", tell=lambda _: self.pace.stop(), now=self.now)

    def now(self) -> datetime:
        return datetime(2026, 1, 2, 12 if len(self.pacs.asked) >= self.questions else 23)


def test_nothing_is_asked_outside_the_window(web: Path, pacs: SmallPacs, tmp_path: Path) -> None:
    own = load_pacs(web).model_copy(update={"downloads": 1})
    unknown = [Asked(f"NONE{number}") for number in range(8)]
    assert pull(own, tmp_path / "out", Query(), unknown, pace=_Clock(pacs, 3).pace).is_stopped
    assert len(pacs.asked) == 3
    pacs.asked.clear()
    clock = _Clock(pacs, 2)
    pacs.break_after, pacs.broken = 1, lambda _: True  # type: ignore[method-assign,assignment]
    assert pull(own, tmp_path / "two", Query(), [Asked(known(0).accession)], pace=clock.pace).is_stopped
    assert len(pacs.asked) == 2  # the question, and one transfer that broke
