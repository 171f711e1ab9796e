"""Pooling the own and the joint model: hand numbers, properties, and evidence that lies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax

from cdtl_core.federation.pool import Evidence, fit_pool, patient_weights, standard_of


def of_margin(margin):
    """Logits of two classes whose difference is `margin`, N 2."""
    margin = np.asarray(margin, float)
    return np.stack([-margin / 2, margin / 2], axis=1)


def margin_of(log_probabilities):
    return log_probabilities[:, 1] - log_probabilities[:, 0]


ONE_EACH = np.arange(4)


def test_the_spread_of_two_classes_is_that_of_the_margin():
    standard = standard_of(of_margin([1.0, 3.0, 5.0, 7.0]), ONE_EACH)
    assert standard.spread == pytest.approx(np.std([1, 3, 5, 7]))
    assert margin_of(standard(of_margin([4.0, 4.0 + standard.spread]))) == pytest.approx([0, 1])


def test_a_patient_with_many_images_counts_as_one():
    alike = standard_of(of_margin([0.0, 2.0]), np.array([0, 1]))
    many = standard_of(of_margin([0.0, 2.0, 2.0, 2.0]), np.array([0, 1, 1, 1]))
    assert (many.spread, many.centre.tolist()) == (pytest.approx(alike.spread), pytest.approx(alike.centre.tolist()))


def test_logits_and_log_probabilities_have_one_standard():
    logits = np.random.default_rng(0).normal(size=(4, 3))
    raw, log = standard_of(logits, ONE_EACH), standard_of(log_softmax(logits, axis=1), ONE_EACH)
    assert raw.spread == pytest.approx(log.spread)
    np.testing.assert_allclose(raw(logits), log(log_softmax(logits, axis=1)), atol=1e-12)


def test_an_equal_pool_is_the_mean_of_both_margins_at_unit_spread():
    own, joint = of_margin([-6.0, 6.0, 2.0, -2.0]), of_margin([0.5, -0.5, 1.5, -1.5])
    pool = fit_pool(standard_of(own, ONE_EACH), standard_of(joint, ONE_EACH), None)
    spread = np.std([-6, 6, 2, -2])
    unit = np.array([-6, 6, 2, -2]) / spread + np.array([0.5, -0.5, 1.5, -1.5]) / np.std([0.5, -0.5, 1.5, -1.5])
    assert (pool.by, pool.share) == ("equal", 1.0)
    np.testing.assert_allclose(margin_of(pool(own, joint)), spread * unit / 2, atol=1e-9)


@pytest.mark.parametrize("size", [0.1, 1.0, 40.0])
def test_how_large_a_models_logits_are_changes_nothing(size):
    own, joint = of_margin([-6.0, 6.0, 2.0, -2.0]), of_margin([0.5, -0.5, 1.5, -1.5])
    order = [
        margin_of(
            fit_pool(standard_of(own, ONE_EACH), standard_of(factor * joint, ONE_EACH), None)(own, factor * joint)
        )
        for factor in (1.0, size)
    ]
    np.testing.assert_allclose(order[0], order[1], atol=1e-9)


def test_a_flat_model_is_left_out():
    own, flat = of_margin([-6.0, 6.0, 2.0, -2.0]), np.zeros((4, 2))
    one = fit_pool(standard_of(own, ONE_EACH), standard_of(flat, ONE_EACH), None)
    other = fit_pool(standard_of(flat, ONE_EACH), standard_of(own, ONE_EACH), None)
    for pool, pair in ((one, (own, flat)), (other, (flat, own))):
        np.testing.assert_allclose(margin_of(pool(*pair)), [-6, 6, 2, -2], atol=1e-9)


def evidence_of(own, joint, labels):
    patients = np.arange(len(labels))
    standards = [standard_of(of_margin(margin), patients) for margin in (own, joint)]
    scores = [one(of_margin(margin)) for one, margin in zip(standards, (own, joint), strict=True)]
    return fit_pool(*standards, Evidence(*scores, labels, patients))


def informed(labels, strength, rng):
    return strength * (2 * labels - 1) + rng.normal(size=len(labels))


@given(st.integers(0, 10_000))
def test_the_share_follows_who_knows_more(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(400) % 2
    knows, guesses = informed(labels, 1.0, rng), rng.normal(size=400)
    assert evidence_of(knows, guesses, labels).share < 0.3
    assert evidence_of(guesses, knows, labels).share > 1.5
    assert evidence_of(knows, -informed(labels, 1.0, rng), labels).share < 0.05


@given(st.integers(0, 10_000))
def test_with_little_evidence_the_share_stays_near_the_prior(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(20) % 2
    assert 0 <= evidence_of(rng.normal(size=20), rng.normal(size=20), labels).share < 2.2


def test_too_few_patients_are_no_evidence():
    labels = np.arange(19) % 2
    assert evidence_of(1.0 * labels, -1.0 * labels, labels).by == "equal"


def test_the_share_is_the_minimum_of_the_penalised_loss():
    """The formula of docs/method.md, written out for two classes and searched on a grid."""
    rng = np.random.default_rng(3)
    labels = (rng.random(60) < 0.3).astype(np.int64)
    own, joint = informed(labels, 0.6, rng), informed(labels, 0.8, rng)
    own, joint = (own - own.mean()) / own.std(), (joint - joint.mean()) / joint.std()
    weights = 60 * patient_weights(labels, np.arange(60))

    def best(r):
        grid = [(s, b) for s in np.linspace(0.2, 3, 141) for b in np.linspace(-1, 1, 81)]
        return min(
            (weights * -np.log(expit((2 * labels - 1) * (b + s * (own + r * joint))))).sum()
            + (np.log(s) ** 2 + b**2) / 8
            for s, b in grid
        ) + (r - 0.7) ** 2 / (2 * 0.49)

    found = evidence_of(own, joint, labels).share
    around = [best(found + step) for step in (-0.1, 0.0, 0.1)]
    assert around[1] == min(around)


def test_three_classes_are_pooled_too():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    own, joint = (np.eye(3)[labels] * strength + rng.normal(size=(300, 3)) for strength in (1.0, 3.0))
    patients = np.arange(300)
    standards = [standard_of(one, patients) for one in (own, joint)]
    scores = [one(values) for one, values in zip(standards, (own, joint), strict=True)]
    pool = fit_pool(*standards, Evidence(*scores, labels, patients))
    right = [(values.argmax(axis=1) == labels).mean() for values in (own, joint, pool(own, joint))]
    assert pool.share > 1
    assert right[2] >= max(right) - 0.01
