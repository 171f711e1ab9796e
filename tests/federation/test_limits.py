"""The rest of an approval: a resume is free, everything else is a further run or refused."""

import random
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import RunConfig
from cdtl_core.errors import PrivacyError
from cdtl_core.federation.limits import (
    MOST_ANSWERS,
    Order,
    OverLimitError,
    Used,
    admitted,
    answered,
    kept_answer,
    load_used,
    order_digest,
    save_used,
)

WEIGHTS = "a" * 64


def run_of(rounds: int = 4, **limits: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"federation": {"rounds": rounds}, "limits": {"initial_weights_hash": WEIGHTS, **limits}}
    )


def train(round: int, which: str = "first", weights: str = WEIGHTS) -> Order:
    return Order(kind="train", round=round, initial_weights_hash=weights, digest=f"{which} order of round {round}")


def final(rounds: int = 4, which: str = "first") -> Order:
    return Order(kind="evaluate", round=rounds + 1, initial_weights_hash=WEIGHTS, digest=f"{which} final order")


def played(*orders: Order, run: RunConfig | None = None, used: Used | None = None) -> Used:
    """The record after these orders, each answered."""
    used = used or Used()
    for order in orders:
        used = answered(admitted(used, order, run or run_of()), order, {"chosen": 0, "auroc": 0.5})
    return used


def limit(used: Used, order: Order, run: RunConfig | None = None) -> str:
    with pytest.raises(OverLimitError) as caught:
        admitted(used, order, run or run_of())
    return str(caught.value.limit)


def test_a_run_from_its_first_round_to_its_evaluation_is_within_its_limits() -> None:
    used = played(*(train(round) for round in (1, 2, 3, 4)), final())
    assert (used.run, used.last_round, len(used.evaluations)) == (1, 4, 1)


@pytest.mark.attack("An approval has limits", "rounds the run does not have")
@pytest.mark.parametrize("round", [777, 5, 0, -1])
def test_a_round_that_the_run_does_not_have_is_refused(round: int) -> None:
    assert limit(played(train(1)), train(round)) == "round"


@pytest.mark.attack("An approval has limits", "other initial weights")
@pytest.mark.parametrize("weights", ["b" * 64, "", "../models/other/model"])
def test_other_initial_weights_are_refused(weights: str) -> None:
    assert limit(Used(), train(1, weights=weights)) == "weights"


@pytest.mark.attack("An approval has limits", "second final evaluation")
def test_a_second_final_evaluation_is_refused_and_the_same_one_gets_the_same_answer() -> None:
    used = played(train(4), final())
    assert limit(used, final(which="second")) == "evaluation"
    again = admitted(used, final(), run_of())
    assert kept_answer(again, final()) == {"chosen": 0, "auroc": 0.5}
    assert len(played(final(which="second"), run=run_of(evaluations=2), used=used).evaluations) == 2


@pytest.mark.attack("An approval has limits", "final evaluation before the last round")
def test_a_final_evaluation_is_asked_for_after_the_last_round_only() -> None:
    assert limit(played(train(1)), final(2, "early")) == "round"


@pytest.mark.attack("An approval has limits", "run played a second time")
def test_a_run_that_is_played_again_is_refused_unless_more_were_approved() -> None:
    middle, ended = played(train(1), train(2), train(3)), played(train(1), train(4), final())
    for used in (middle, ended):
        assert limit(used, train(1)) == "run"
        second = admitted(used, train(1), run_of(runs=2))
        assert (second.run, second.last_round, second.evaluations) == (2, 1, ())
        assert limit(played(train(2), train(3), train(4), used=second), train(1), run_of(runs=2)) == "run"


def test_a_resume_goes_on_at_the_rounds_around_the_last_one_in_the_same_run() -> None:
    used = played(train(1), train(2), train(3))
    for order in (train(3), train(2, "second"), train(4)):
        assert admitted(used, order, run_of()).run == 1


def test_a_site_that_was_away_goes_on_where_the_others_are() -> None:
    assert admitted(played(train(1), run=run_of(9)), train(8), run_of(9)).last_round == 8


def test_the_last_round_is_repeated_after_the_evaluation_only_by_the_same_order() -> None:
    used = played(train(3), train(4), final())
    assert admitted(used, train(4), run_of()) == used
    assert limit(used, train(4, "second")) == "run"


@pytest.mark.attack("An approval has limits", "one round asked for again and again")
def test_one_round_has_few_orders_and_few_answers() -> None:
    used = Used()
    for which in ("first", "second", "third"):
        used = admitted(used, train(1, which), run_of())
    assert limit(used, train(1, "fourth")) == "round"
    for _ in range(MOST_ANSWERS):
        used = answered(admitted(used, train(1), run_of()), train(1))
    assert limit(used, train(1)) == "round"
    used = played(final())
    for _ in range(MOST_ANSWERS - 1):
        used = answered(used, final())
    assert limit(used, final()) == "evaluation"


@pytest.mark.attack("An approval has limits", "random orders of a hostile coordinator")
def test_no_sequence_of_orders_gets_more_than_was_approved(tries: Any) -> None:
    """Whatever is asked for: rounds, answers and evaluations stay within the bounds of the runs approved."""
    for seed in range(300):
        draw, used, got = random.Random(seed), Used(), {"answers": 0, "finals": set[tuple[int, str]]()}
        run = run_of(rounds=draw.randint(1, 5), runs=draw.randint(1, 3), evaluations=draw.randint(1, 2))
        rounds = run.federation.rounds
        for _ in range(120):
            which = draw.choice("abcdef")
            order = train(draw.randint(-1, rounds + 3), which) if draw.random() < 0.8 else final(rounds, which)
            before = used.run
            try:
                used = answered(admitted(used, order, run), order, {"chosen": 0})
            except OverLimitError:
                continue
            assert used.run >= before
            got["answers"] += order.kind == "train"  # type: ignore[operator]
            if order.kind == "evaluate":
                got["finals"].add((used.run, order.digest))  # type: ignore[attr-defined, union-attr]
        assert used.run <= run.limits.runs
        assert got["answers"] <= run.limits.runs * rounds * MOST_ANSWERS  # type: ignore[operator]
        assert len(got["finals"]) <= run.limits.runs * run.limits.evaluations  # type: ignore[arg-type]
        tries.add(120)


def test_a_record_survives_its_file_and_a_damaged_one_is_no_fresh_one(tmp_path: Path) -> None:
    used = played(train(1), train(2), final())
    save_used(tmp_path / "used.json", used)
    assert load_used(tmp_path / "used.json") == used
    assert load_used(tmp_path / "none.json") == Used()
    (tmp_path / "used.json").write_bytes((tmp_path / "used.json").read_bytes()[:40])
    with pytest.raises(PrivacyError, match="how much of the approval is used"):
        load_used(tmp_path / "used.json")


def test_an_order_is_the_same_with_and_without_the_initial_weights() -> None:
    order = {"order": "1", "offset": "2"}
    assert order_digest(order) == order_digest({"initial_weights": "3", "initial_weights.index": "4", **order})
    assert order_digest(order) != order_digest({**order, "offset": "5"})
