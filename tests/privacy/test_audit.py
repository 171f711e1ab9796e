"""The bound of a one-run audit: hand numbers, scipy as reference, properties, and its confidence."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binom

from cdtl_core.privacy.audit import correct_guesses, lower_bound, num_guesses, p_value


def bound(canaries: int, guesses: int, correct: int, delta: float = 0.0) -> float:
    return lower_bound(canaries=canaries, guesses=guesses, correct=correct, delta=delta)


def test_a_hundred_canaries_all_guessed_right_certify_three_and_a_half() -> None:
    share = 0.05 ** (1 / 100)  # the share of right guesses with which all hundred are right once in twenty times
    assert bound(100, 100, 100) == pytest.approx(math.log(share / (1 - share)), abs=1e-6)
    assert round(bound(100, 100, 100), 1) == 3.5


def test_without_delta_it_is_the_binomial_test() -> None:
    found = bound(1000, 200, 170)
    assert binom.sf(169, 200, expit(found)) == pytest.approx(0.05, abs=1e-6)
    assert p_value(1.3, canaries=1000, guesses=200, correct=170, delta=0.0) == binom.sf(169, 200, expit(1.3))


def test_delta_costs_what_appendix_d_says() -> None:
    """One guess, right: the chance q, and 2 m delta times P[Binomial(1, q) = 0]."""
    q = expit(1.0)
    assert p_value(1.0, canaries=10, guesses=1, correct=1, delta=0.001) == pytest.approx(q + 0.02 * (1 - q))
    falls = [binom.pmf(1, 2, q), (binom.pmf(1, 2, q) + binom.pmf(0, 2, q)) / 2]
    expected = q**2 + 0.02 * max(falls)
    assert p_value(1.0, canaries=10, guesses=2, correct=2, delta=0.001) == pytest.approx(expected)


@pytest.mark.parametrize("correct", [0, 40, 50, 58])
def test_guesses_that_chance_explains_certify_nothing(correct: int) -> None:
    assert bound(100, 100, correct) == 0


def test_delta_that_could_give_everybody_away_certifies_nothing() -> None:
    assert bound(100, 100, 100, delta=1.0) == 0


@given(st.integers(1, 400), st.data())
def test_more_right_guesses_certify_more_and_delta_less(guesses: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, guesses - 1))
    delta = data.draw(st.sampled_from([0.0, 1e-6, 1e-5]))
    assert bound(1000, guesses, correct, delta) <= bound(1000, guesses, correct + 1, delta) + 1e-9
    assert bound(1000, guesses, correct, delta) <= bound(1000, guesses, correct, 0.0) + 1e-9


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_bound_is_above_the_truth_once_in_twenty_at_most(epsilon: float) -> None:
    """Randomized response is as bad as epsilon allows."""
    rng = np.random.default_rng(0)
    found = {correct: bound(300, 100, correct) for correct in range(101)}
    above = [found[int(correct)] > epsilon for correct in rng.binomial(100, expit(epsilon), size=4000)]
    assert 0.005 < np.mean(above) <= 0.05 + 0.007


def test_guesses_are_fixed_by_the_number_of_canaries() -> None:
    assert [num_guesses(m) for m in (10, 100, 300, 500, 1500)] == [10, 100, 100, 100, 300]


def test_the_top_is_guessed_in_and_the_bottom_out() -> None:
    scores, present = np.array([3.0, -2.0, 0.1, 2.0, -3.0]), np.array([True, False, True, False, True])
    assert correct_guesses(scores, present, 2) == 1  # 3.0 in is right, -3.0 out is wrong
    assert correct_guesses(scores, present, 3) == 1  # 2.0 in is wrong
    assert correct_guesses(scores, present, 4) == 2
    assert correct_guesses(scores, present, 0) == 0
