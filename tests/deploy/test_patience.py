"""How long the filter keeps the SuperNode's question open."""

from cdtl_core.deploy.egress_filter.patience import Patience


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_looks_are_frequent_at_first_and_rarer_with_the_silence() -> None:
    clock = Clock()
    patience, pauses = Patience(20.0, clock), []
    while (pause := patience.pause(clock.at)) is not None:
        pauses.append(pause)
        clock.at += pause
    assert pauses[0] == 0.25
    assert pauses == sorted(pauses)
    assert 110 < sum(pauses) < 125
    assert len(pauses) < 160
    patience.stir()
    assert patience.pause(clock.at) == 0.25


def test_a_question_is_answered_before_its_asker_gives_up() -> None:
    clock = Clock()
    patience = Patience(20.0, clock)
    assert patience.pause(clock.at - 19.5) == 0.25
    assert patience.pause(clock.at - 19.9) is None


def test_without_holding_every_question_is_answered_at_once() -> None:
    assert Patience(0.0).pause(Patience(0.0).now()) is None
