"""The bootstrap over receivers, patients and draws: hand numbers, and coverage of a known truth."""

import numpy as np
import pytest
from scipy.stats import norm

from cdtl_core.metrics.metrics import auroc, weighted_auroc
from cdtl_core.simulation.hierarchy import Figure, difference, mean_difference, p_value, site_resamples


def figure(draws: list[float], resampled: list[list[float]], patients: int = 50) -> Figure:
    return Figure(np.array(draws), np.array(resampled), patients)


def studies(count: int, *, receivers: int, spread: float, effect: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Whether the interval holds the true mean difference, and the p value, of studies made of normal scores."""
    rng = np.random.default_rng(1)
    apart = effect + spread * np.random.default_rng(0).normal(size=100_000)
    truth = norm.cdf((1 + apart) / np.sqrt(2)).mean() - norm.cdf(1 / np.sqrt(2))
    found = [mean_difference(_study(rng, receivers, spread, effect), 800) for _ in range(count)]
    held = [interval.low <= truth <= interval.high for interval, _ in found]
    return np.array(held), np.array([p for _, p in found])


def _study(rng: np.random.Generator, receivers: int, spread: float, effect: float) -> dict[str, Figure]:
    """Forty patients each and three draws; two arms whose scores of a patient are correlated."""
    positive, patients = np.arange(40) % 2 == 0, np.arange(40)
    found = {}
    for number in range(receivers):
        weights = site_resamples(f"{number}-{rng.integers(2**31)}", patients, 200)
        common, more = rng.normal(size=40), effect + spread * rng.normal()
        arms = []
        for apart in (1.0, 1.0 + more):
            scores = [apart * positive + (common + rng.normal(size=40)) / np.sqrt(2) for _ in range(3)]
            draws = np.array([auroc(positive, score) for score in scores])
            resampled = np.stack([weighted_auroc(positive, score, weights) for score in scores], axis=1)
            arms.append(Figure(draws, resampled, 40))
        found[str(number)] = arms[1].less(arms[0])
    return found


@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_intervals_hold_the_truth_as_often_as_they_say_and_p_values_are_those_of_chance(spread: float) -> None:
    """Receivers that differ by 4 and by 8 points of AUROC; the more alike, the more cautious is the interval."""
    held, p = studies(150, receivers=4, spread=spread)
    assert held.mean() >= 0.9
    assert (p < 0.05).mean() <= 0.09
    assert (p < 0.2).mean() <= 0.26
    assert (p < 0.5).mean() >= 0.3  # and not much larger than by chance either


def test_a_real_difference_is_found() -> None:
    held, p = studies(40, receivers=4, spread=0.3, effect=0.8)
    assert held.mean() >= 0.85
    assert (p < 0.05).mean() >= 0.7


def test_every_level_widens_the_interval() -> None:
    """By hand: where only one level varies the replicates vary by that level alone."""
    flat = [[0.1] * 2] * 50
    only_receivers, p = mean_difference({"a": figure([0.1] * 2, flat), "b": figure([0.3] * 2, [[0.3] * 2] * 50)}, 4000)
    assert only_receivers.value == pytest.approx(0.2)
    assert (only_receivers.low, only_receivers.high) == (pytest.approx(0.1), pytest.approx(0.3))
    assert p == pytest.approx(2 / 4001)
    only_draws, _ = mean_difference({"a": figure([0.0, 1.0], [[0.0, 1.0]] * 50)}, 4000)
    assert (only_draws.value, only_draws.low, only_draws.high) == (0.5, 0.0, 1.0)
    only_patients, _ = mean_difference({"a": figure([0.5], [[value] for value in np.linspace(0, 1, 401)])}, 4000)
    assert (only_patients.low, only_patients.high) == (pytest.approx(0.025, abs=0.02), pytest.approx(0.975, abs=0.02))
    nothing, p = mean_difference({"a": figure([0.0] * 2, [[0.0] * 2] * 50)}, 100)
    assert (nothing.low, nothing.high, p) == (0.0, 0.0, 1.0)


def test_few_patients_give_no_interval_and_no_p_value() -> None:
    interval, p = mean_difference({"a": figure([0.1], [[0.1]] * 50, patients=9)}, 100)
    assert (interval.value, np.isnan(interval.low), np.isnan(p)) == (0.1, True, True)
    assert np.isnan(difference(figure([0.1], [[0.1]] * 50, patients=9)).low)


def test_patients_are_resampled_whole_and_equally_for_every_arm() -> None:
    patients = np.array([0, 0, 1, 2, 2, 2])
    weights = site_resamples("alba", patients, 500)
    assert (weights[0] == weights[1]).all()
    assert (weights[[0, 2, 3]].sum(axis=0) == 3).all()
    assert (weights == site_resamples("alba", patients, 500)).all()
    assert (weights != site_resamples("como", patients, 500)).any()


def test_weighted_auroc_counts_an_image_as_often_as_it_weighs() -> None:
    rng = np.random.default_rng(0)
    positive, scores = rng.random(40) < 0.4, np.round(rng.normal(size=40), 1)  # with ties
    weights = rng.integers(0, 4, size=(40, 20))
    found = weighted_auroc(positive, scores, weights.astype(np.float64))
    for column in range(20):
        rows = np.repeat(np.arange(40), weights[:, column])
        assert found[column] == pytest.approx(auroc(positive[rows], scores[rows]))
    assert np.isnan(weighted_auroc(positive, scores, np.where(positive, 1.0, 0.0)[:, None])).all()


def test_p_values_by_hand() -> None:
    assert p_value(np.array([1.0] * 99)) == pytest.approx(0.02)
    assert p_value(np.array([1.0] * 97 + [-1.0] * 2)) == pytest.approx(0.06)
    assert p_value(np.array([0.0] * 9)) == 1.0
