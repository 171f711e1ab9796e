"""The acceptance gate."""

import numpy as np
import pytest

from cdtl_core.federation.gate import choose_model


def test_a_blend_that_is_clearly_worse_is_refused() -> None:
    own = np.array([0.5, 0.6, 0.4, 0.5])
    decision = choose_model({"blended": own + np.array([0.2, 0.3, 0.25, 0.2]), "unblended": own}, standard_errors=1.0)
    assert (decision.chosen, decision.accepted) == ("unblended", False)
    assert decision.losses["blended"] == pytest.approx(0.7375)


def test_a_blend_that_is_worse_within_one_standard_error_is_kept() -> None:
    own = np.array([0.5, 0.6, 0.4, 0.5])
    blended = own + np.array([0.3, -0.25, 0.2, -0.2])  # mean 0.0125, standard error 0.139
    assert choose_model({"blended": blended, "unblended": own}, standard_errors=1.0).accepted


def test_the_best_of_those_that_are_clearly_better_than_alone_is_taken() -> None:
    base = np.linspace(0.4, 0.6, 8)
    losses = {"blended": base + 0.3, "unblended": base + 0.1, "alone": base}
    assert choose_model(losses, standard_errors=1.0).chosen == "alone"
    losses = {"blended": base - 0.3, "unblended": base - 0.1, "alone": base}
    assert choose_model(losses, standard_errors=1.0).accepted
    losses = {"blended": base - 0.1, "unblended": base - 0.3, "alone": base}
    assert choose_model(losses, standard_errors=1.0).chosen == "unblended"


def test_a_blend_that_is_better_than_alone_within_one_standard_error_is_not_used() -> None:
    alone = np.array([0.5, 0.6, 0.4, 0.5])
    blended = alone - np.array([0.3, -0.25, 0.2, -0.2])  # mean 0.0125 less, standard error 0.139
    decision = choose_model({"blended": blended, "alone": alone}, standard_errors=1.0)
    assert (decision.chosen, decision.accepted) == ("alone", False)
    assert choose_model({"blended": blended, "alone": alone}, standard_errors=0.0).accepted


def test_equal_models_are_no_reason_to_leave_the_own_one() -> None:
    same = np.array([0.3, 0.4, 0.5])
    assert choose_model({"blended": same, "alone": same}, standard_errors=0.0).chosen == "alone"


def test_with_the_gate_off_the_blended_model_is_used_whatever_it_is_like() -> None:
    base = np.linspace(0.4, 0.6, 8)
    decision = choose_model({"blended": base + 9, "alone": base}, standard_errors=None)
    assert (decision.chosen, decision.losses["alone"]) == ("blended", pytest.approx(0.5))
    assert choose_model({"blended": base[:1], "alone": base[:1]}, standard_errors=None).chosen == "blended"


def test_with_one_or_two_patients_nothing_speaks_for_the_blend_and_the_own_model_is_kept() -> None:
    few = {"blended": np.array([0.1, 0.1]), "unblended": np.array([0.2, 0.2]), "alone": np.array([0.9, 0.9])}
    decision = choose_model(few, standard_errors=1.0)
    assert (decision.chosen, decision.accepted, decision.excess) == ("alone", False, {})
    del few["alone"]
    decision = choose_model(few, standard_errors=1.0)
    assert (decision.chosen, decision.accepted) == ("blended", None)


def test_without_an_alternative_nothing_was_accepted() -> None:
    assert choose_model({"blended": np.array([0.3, 0.2, 0.1])}, standard_errors=1.0).accepted is None
