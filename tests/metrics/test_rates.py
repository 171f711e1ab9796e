"""Rates at threshold 0.5 and AUROC with intervals over patients."""

import numpy as np
import pytest

from cdtl_core.metrics.metrics import auroc, bootstrap_auroc
from cdtl_core.metrics.rates import RATES, Scored, rates_of, rates_with_intervals
from cdtl_core.metrics.summary import summarise


def scored(seed: int, images: int = 60, patients: int = 30) -> Scored:
    rng = np.random.default_rng(seed)
    positive = rng.random(images) < 0.4
    return Scored(positive, np.round(0.3 * positive + 0.7 * rng.random(images), 2), rng.integers(patients, size=images))


def test_the_rates_are_those_of_the_table_by_hand() -> None:
    """Three hits, one miss, one alarm, five rejects; a weight of two is the image twice."""
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    said = np.array([0.9, 0.8, 0.5, 0.1, 0.7, 0.2, 0.2, 0.2, 0.2, 0.2])
    one = Scored(truth, said, np.arange(10))
    twice = np.ones(10)
    twice[3] = 2
    found = rates_of(one, np.stack([np.ones(10), twice]))
    assert found["accuracy"] == pytest.approx([0.8, 8 / 11])
    assert found["sensitivity"] == pytest.approx([3 / 4, 3 / 5])
    assert found["specificity"] == pytest.approx([5 / 6, 5 / 6])
    assert found["precision"] == pytest.approx([3 / 4, 3 / 4])
    assert found["f1"] == pytest.approx([6 / 8, 6 / 9])
    assert found["auroc"] == pytest.approx([(6 + 6 + 5 + 0) / 24, (6 + 6 + 5 + 0 + 0) / 30])


def test_nothing_over_nothing_is_nan_and_has_no_interval() -> None:
    never = Scored(np.arange(20) < 8, np.full(20, 0.1), np.arange(20))
    found = rates_with_intervals([never], seed=0)
    assert np.isnan([found["precision"].value, found["precision"].low]).all()
    assert (found["sensitivity"].value, found["f1"].value, found["auroc"].value) == (0, 0, 0.5)
    few = rates_with_intervals([Scored(never.positive, never.probability, np.arange(20) // 4)], seed=0)
    assert np.isnan(few["accuracy"].low)
    assert few["accuracy"].value == 0.6


def test_one_split_is_what_the_rest_of_the_product_says_of_it() -> None:
    one = scored(1)
    found, usual = rates_with_intervals([one], seed=3), summarise(one.positive, one.probability)
    assert set(found) == set(RATES)
    for name in RATES[:-1]:
        assert found[name].value == pytest.approx(usual[name])
    before = bootstrap_auroc(one.positive, one.probability, one.patients, seed=3).interval
    interval = found["auroc"]
    assert [interval.value, interval.low, interval.high] == pytest.approx([before.value, before.low, before.high])


def test_a_repeat_is_averaged_and_adds_no_patients() -> None:
    one, other = scored(1), scored(2)
    once, twice = rates_with_intervals([one], seed=0), rates_with_intervals([one, one], seed=0)
    for name in RATES:
        assert [once[name].value, once[name].low] == pytest.approx([twice[name].value, twice[name].low])
    both = rates_with_intervals([one, other], seed=0)["auroc"]
    singles = [auroc(split.positive, split.probability) for split in (one, other)]
    assert both.value == pytest.approx(np.mean(singles))
    assert both.low < both.value < both.high
