"""Metrics against scikit-learn, hand numbers and known cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from cdtl_core.errors import ModelError
from cdtl_core.metrics.calibration import fit_temperature, rescale
from cdtl_core.metrics.metrics import _auroc_draws, auroc, auroc_interval, log_loss_by_patient, paired_difference
from cdtl_core.metrics.summary import expected_calibration_error, summarise


def sample(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.4
    return positive, np.round(rng.normal(size=count) + positive, 1), rng.integers(0, count // 2, count)


@pytest.mark.parametrize("seed", range(5))
def test_every_bootstrap_draw_is_scikit_learns_weighted_auroc(seed: int) -> None:
    positive, scores, patients = sample(seed)
    draws = _auroc_draws(positive, scores, patients, seed=7)
    names, index = np.unique(patients, return_inverse=True)
    counts = np.random.default_rng(7).multinomial(len(names), np.full(len(names), 1 / len(names)), size=2000)
    for draw, count in zip(draws[:20], counts[:20], strict=True):
        assert draw == pytest.approx(roc_auc_score(positive, scores, sample_weight=count[index]))


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 1 / 3, -2.5, 1e-300]) | st.floats(-9, 9)), min_size=2)
)
def test_auroc_is_scikit_learns_bit_for_bit(rows: list[tuple[bool, float]]) -> None:
    positive, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    if positive.all() or not positive.any():
        assert np.isnan(auroc(positive, scores))
    else:
        assert auroc(positive, scores) == roc_auc_score(positive, scores)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_have_no_auroc(score: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        auroc(np.array([True, False]), np.array([0.5, score]))


def test_the_interval_holds_the_value_and_narrows_with_patients() -> None:
    small, large = (auroc_interval(*sample(1, count), seed=0) for count in (60, 2000))
    assert small.low < small.value < small.high
    assert large.high - large.low < (small.high - small.low) / 2


def test_intervals_are_over_patients_not_images() -> None:
    """Twenty copies of each image add no patient, so the interval stays as wide."""
    positive, scores, patients = sample(3)
    once = auroc_interval(positive, scores, patients, seed=0)
    copied = auroc_interval(*(np.tile(x, 20) for x in (positive, scores, patients)), seed=0)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_too_few_patients_or_one_class_give_no_interval() -> None:
    positive, scores, patients = sample(0)
    few = auroc_interval(positive, scores, patients % 9, seed=0)
    assert np.isfinite(few.value)
    assert np.isnan(few.low)
    assert np.isnan(auroc(np.ones(4, bool), np.arange(4.0)))


def test_a_model_does_not_differ_from_itself_and_a_better_one_does() -> None:
    positive, scores, patients = sample(0, 400)
    same = paired_difference(positive, scores, scores, patients, seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert paired_difference(positive, scores + 2 * positive, scores, patients, seed=0).low > 0


def test_log_loss_is_averaged_within_a_patient_first() -> None:
    logs = np.log(np.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]))
    losses = log_loss_by_patient(np.array([0, 0, 1]), logs, np.array([4, 4, 9]))
    assert losses.tolist() == pytest.approx([(np.log(2) + np.log(4)) / 2, np.log(10)])


def test_figures_at_a_threshold_by_hand() -> None:
    positive = np.array([True, True, True, False, False])
    figures = summarise(positive, np.array([0.9, 0.8, 0.2, 0.7, 0.1]))
    assert figures["sensitivity"] == pytest.approx(2 / 3)
    assert figures["specificity"] == pytest.approx(1 / 2)
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["accuracy"] == pytest.approx(3 / 5)
    assert figures["majority_rate"] == pytest.approx(3 / 5)


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_average_precision_is_scikit_learns_with_ties_too(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    positive, scores = rng.random(count) < 0.4, rng.integers(0, 5, count) / 5
    found = summarise(positive, scores)["auprc"]
    if positive.any():
        assert found == pytest.approx(average_precision_score(positive, scores))
    else:
        assert np.isnan(found)


def test_zero_over_zero_is_nan() -> None:
    assert np.isnan(summarise(np.array([False, False]), np.array([0.1, 0.2]))["sensitivity"])


def test_calibration_error_by_hand() -> None:
    positive = np.array([True, False, True, True])
    assert expected_calibration_error(positive, np.array([0.25, 0.25, 0.95, 0.95])) == pytest.approx(
        (abs(0.5 - 1) + abs(1.9 - 2)) / 4
    )


@given(st.floats(0.3, 5.0))
def test_the_fitted_temperature_undoes_a_known_one(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 2)) * 2
    honest = rescale(logits, 1.0)
    labels = (rng.random(20_000) < np.exp(honest[:, 1])).astype(np.int64)
    found = fit_temperature(rescale(honest, 1 / temperature), labels, np.arange(20_000))
    assert found == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize(("patients", "nearer"), [(24, 0.5), (20_000, 1.0)])
def test_a_prior_holds_the_temperature_of_few_patients_near_1_and_that_of_many_not_at_all(
    patients: int, nearer: float
) -> None:
    rng = np.random.default_rng(0)
    honest = rescale(rng.normal(size=(patients, 2)) * 2, 1.0)
    labels = (rng.random(patients) < np.exp(honest[:, 1])).astype(np.int64)
    free, held = (
        fit_temperature(rescale(honest, 1 / 3), labels, np.arange(patients), deviation=deviation)
        for deviation in (None, 0.25)
    )
    assert free is not None
    assert held is not None
    assert 1 < held <= free
    assert np.log(held) / np.log(free) == pytest.approx(nearer, abs=0.25 if nearer < 1 else 0.01)


def test_too_few_patients_are_not_calibrated() -> None:
    assert fit_temperature(np.zeros((19, 2)), np.zeros(19, np.int64), np.arange(19)) is None
