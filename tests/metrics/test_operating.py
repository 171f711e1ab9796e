"""Thresholds and intervals against numbers worked out by hand, and curves against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cdtl_core.metrics.bands import average_precision_interval, mean_interval, precision_recall, reliability, roc
from cdtl_core.metrics.metrics import auroc
from cdtl_core.metrics.operating import choose_threshold, confusion_at, wilson

TRUTH = np.array([False, False, True, False, True, True])
SCORES = np.array([0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
ALONE = np.arange(6)


def test_the_threshold_is_halfway_between_the_scores_it_parts_and_nearest_to_a_half() -> None:
    # at 0.35: sensitivity 1, specificity 2/3; at 0.65: 2/3 and 1; both 5/3, and equally near: the first is taken
    assert choose_threshold(TRUTH, SCORES) == pytest.approx(0.35)
    assert choose_threshold(TRUTH, SCORES - 0.2) == pytest.approx(0.45)


def test_without_both_classes_nothing_is_chosen() -> None:
    assert choose_threshold(np.zeros(6, bool), SCORES) is None
    assert choose_threshold(np.ones(6, bool), SCORES) is None


def test_confusion_by_hand() -> None:
    found = confusion_at(TRUTH, SCORES, np.array([0, 0, 1, 2, 3, 3]), 0.6)
    assert (found.hits, found.misses, found.alarms, found.rejects) == (2, 1, 1, 2)
    assert found.sensitivity.interval.value == pytest.approx(2 / 3)
    assert (found.sensitivity.part, found.sensitivity.whole) == (2, 3)
    assert found.precision.interval.value == pytest.approx(2 / 3)
    few = wilson(2 / 3, 2)  # patients 1 and 3 hold the three positive images
    assert (found.sensitivity.interval.low, found.sensitivity.interval.high) == (few.low, few.high)


def test_wilson_is_the_textbooks_interval() -> None:
    found = wilson(0.5, 10)  # 5 of 10
    assert (found.low, found.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson(0.0, 10).low == 0.0
    assert wilson(1.0, 3).high == 1.0
    assert np.isnan(wilson(float("nan"), 0).low)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=40))
def test_curves_agree_with_the_figures_they_stand_for(rows: list[tuple[bool, int]]) -> None:
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] / 8 for row in rows])
    patients = np.arange(len(rows))
    curve = roc(truth, scores, patients, seed=0)
    if curve is None:
        assert truth.all() or not truth.any()
        return
    assert np.sum(np.diff(curve.x) * (curve.y[1:] + curve.y[:-1]) / 2) == pytest.approx(auroc(truth, scores))
    assert (curve.band is None) == (len(rows) < 10) or curve.band is None
    precise = precision_recall(truth, scores, patients, seed=0)
    assert precise is not None
    area = np.sum(np.diff(precise.x) * precise.y[1:])
    assert area == pytest.approx(average_precision_score(truth, scores))
    found = average_precision_interval(truth, scores, patients, seed=0)
    assert found.value == pytest.approx(average_precision_score(truth, scores))


def test_bands_hold_the_curve_and_narrow_with_patients() -> None:
    rng, widths = np.random.default_rng(0), []
    for count in (40, 640):
        truth = rng.random(count) < 0.5
        scores = rng.normal(truth, 1.0)
        curve = roc(truth, scores, np.arange(count), seed=1)
        assert curve is not None
        assert curve.band is not None
        low, high = curve.band
        assert np.all(low <= high)
        inside = (curve.at >= low - 1e-9) & (curve.at <= high + 1e-9)
        assert inside.mean() > 0.9
        widths.append(float((high - low).mean()))
        assert roc(truth, scores, np.arange(count), seed=1).band[0].tolist() == low.tolist()  # type: ignore[union-attr, index]
    assert widths[1] < 0.5 * widths[0]


def test_reliability_by_hand() -> None:
    truth = np.array([True, False, True, True])
    bins = reliability(truth, np.array([0.05, 0.07, 0.95, 1.0]), np.array([0, 0, 1, 2]))
    assert [(one.low, one.images, one.patients) for one in bins] == [(0.0, 2, 1), (0.9, 2, 2)]
    assert [one.observed.value for one in bins] == [0.5, 1.0]
    assert bins[0].mean == pytest.approx(0.06)


def test_a_mean_has_an_interval_from_ten_patients_on() -> None:
    values = np.arange(20.0)
    assert np.isnan(mean_interval(values, np.arange(20) // 3, seed=0).low)
    found = mean_interval(values, np.arange(20), seed=0)
    assert found.value == 9.5
    assert 6.5 < found.low < 9.5 < found.high < 12.5
