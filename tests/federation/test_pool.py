"""The pool of own and joint model: hand numbers, properties, and misleading evidence."""

# mypy: disable-error-code=arg-type

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax
from scipy.stats import norm

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
    return fit_pool(*standards, Evidence(*scores, labels, patients))  # type: ignore[call-arg]


def informed(labels, strength, rng):
    return strength * (2 * labels - 1) + rng.normal(size=len(labels))


@given(st.integers(0, 10_000))
def test_the_share_follows_who_knows_more(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(400) % 2
    knows, guesses = informed(labels, 1.0, rng), rng.normal(size=400)
    assert evidence_of(knows, guesses, labels).share < 0.8  # 0.64 is the largest of 5,000 seeds
    assert evidence_of(guesses, knows, labels).share > 1.5
    assert evidence_of(knows, -informed(labels, 1.0, rng), labels).share < 0.05


@given(st.integers(0, 10_000))
def test_with_little_evidence_the_share_stays_moderate(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(20) % 2
    assert 0 <= evidence_of(rng.normal(size=20), rng.normal(size=20), labels).share < 4


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_fewer_patients_the_nearer_is_the_share_to_an_equal_one(seed, count):
    """Even where all of them say the same: the deviation of the prior is 1.4 n / 20."""
    rng = np.random.default_rng(seed)
    labels = np.arange(2 * count) % 2
    liar, knows = rng.normal(size=2 * count), informed(labels, 3.0, rng)
    assert abs(evidence_of(knows, liar, labels).share - 1) < 3 * 1.4 * count / 10
    assert abs(evidence_of(knows, liar, labels).share - 1) <= 1


def test_patients_of_one_class_are_no_evidence():
    labels = np.zeros(40, int)
    pool = evidence_of(np.arange(40.0), -np.arange(40.0), labels)
    assert (pool.by, pool.share) == ("equal", 1.0)


def test_few_patients_set_the_scale_too_so_that_a_head_that_is_too_sure_does_not_pass_it_on():
    """An own model that knows its training patients by heart, and nothing else: its spread is 30, its worth none."""
    rng = np.random.default_rng(0)
    labels, patients = np.arange(12) % 2, np.arange(12)
    by_heart, joint = standard_of(of_margin(60.0 * labels - 30), patients), of_margin(rng.normal(size=12))
    unit = standard_of(joint, patients)
    pool = fit_pool(by_heart, unit, Evidence(of_margin(rng.normal(size=12)), unit(joint), labels, patients))
    assert (pool.by, pool.num_patients) == ("evidence", 12)
    assert pool.scale < 2


def test_five_patients_that_both_models_tell_apart_do_not_make_the_pool_sure():
    labels, patients = np.array([0, 0, 0, 1, 1]), np.arange(5)
    own, joint = of_margin([-1.0, -0.5, -0.8, 0.9, 1.2]), of_margin([-0.6, -1.1, -0.4, 1.0, 0.7])
    unit = standard_of(own, patients)
    pool = fit_pool(unit, standard_of(joint, patients), Evidence(unit(own), unit(joint), labels, patients))
    assert pool.by == "evidence"
    assert pool.scale < 2.5
    many = Evidence(*(np.repeat(one, 8, axis=0) for one in (unit(own), unit(joint), labels)), np.arange(40))  # type: ignore[call-arg]
    assert fit_pool(unit, standard_of(joint, patients), many).scale > 3


def test_nothing_jumps_at_twenty_patients():
    rng = np.random.default_rng(5)
    labels = np.arange(20) % 2
    own, joint = informed(labels, 1.0, rng), informed(labels, 0.6, rng)
    shares = [evidence_of(own[:count], joint[:count], labels[:count]).share for count in (18, 20)]
    assert abs(shares[0] - shares[1]) < 0.3


@pytest.mark.parametrize("count", [12, 60])
def test_the_share_is_the_minimum_of_the_penalised_loss(count):
    """The formula of docs/method.md, written out for two classes and searched on a grid."""
    rng = np.random.default_rng(3)
    labels = (np.arange(count) % 3 == 0).astype(np.int64)
    own, joint = informed(labels, 0.6, rng), informed(labels, 0.8, rng)
    own, joint = (own - own.mean()) / own.std(), (joint - joint.mean()) / joint.std()
    weights = count * patient_weights(labels, np.arange(count))
    spread = 1.4 * min(1, count / 20)

    def best(r):
        scales, biases = np.geomspace(0.1, 20, 90), np.linspace(-3, 3, 61)
        return min(
            (weights * -np.log(expit((2 * labels - 1) * (b + s * (own + r * joint))))).sum()
            + (np.log(s) ** 2 + b**2) / 8
            for s in scales
            for b in biases
        ) + (r - 1) ** 2 / (2 * spread**2)

    found = evidence_of(own, joint, labels).share
    around = [best(found + step) for step in (-0.2, 0.0, 0.2)]
    assert around[1] == min(around)


@pytest.mark.parametrize("count", [6, 12, 40])
def test_the_scale_is_the_minimum_of_the_penalised_loss(count):
    """The prior of docs/decisions.md, written out for two classes and searched on a grid."""
    rng = np.random.default_rng(4)
    labels = (np.arange(count) % 3 == 0).astype(np.int64)
    own, joint = informed(labels, 1.0, rng), informed(labels, 0.8, rng)
    own, joint = (own - own.mean()) / own.std(), (joint - joint.mean()) / joint.std()
    pool, known = evidence_of(own, joint, labels), min(1, count / 20)
    scales, biases = np.meshgrid(np.geomspace(0.05, 20, 600), np.linspace(-4, 4, 321), indexing="ij")
    loss = (np.log(scales) - (1 - known) * np.log(0.5)) ** 2 / (8 * known**2) + biases**2 / 8
    for margin, label in zip(own + pool.share * joint, labels, strict=True):
        loss -= np.log(expit((2 * label - 1) * (biases + scales * margin)))
    assert pool.scale == pytest.approx(scales.flat[loss.argmin()], rel=0.03)


@pytest.mark.parametrize(
    ("own", "joint", "patients", "least"),
    [(0.91, 0.42, 20, -1.6), (0.75, 0.75, 20, 1.0), (0.55, 0.70, 20, 8.0), (0.55, 0.70, 100, 11.0)],
)
def test_where_the_truth_is_known_a_site_gains_or_loses_little(own, joint, patients, least):
    """Scores drawn from known distributions: points of AUROC over the own model, mean of 40 cohorts.

    Row 1 is a site with donors below chance. The best possible result is 0, 2.4, 15 and 15.
    """
    rng = np.random.default_rng(0)
    labels = (np.arange(patients) % 5 < 2).astype(np.int64)
    worth = [np.sqrt(2) * norm.ppf(value) for value in (own, joint)]
    spreads = [np.sqrt(1 + 0.24 * value**2) for value in worth]
    gains = []
    for _ in range(40):
        scores = [value * labels + rng.normal(size=patients) for value in worth]
        r = evidence_of(*scores, labels).share  # type: ignore[call-arg]
        parts = 1 / spreads[0], r / spreads[1]
        told = parts[0] * worth[0] + parts[1] * worth[1]
        gains.append(100 * (norm.cdf(told / np.sqrt(2) / np.hypot(*parts)) - own))
    assert np.mean(gains) > least


def test_three_classes_are_pooled_too():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    own, joint = (np.eye(3)[labels] * strength + rng.normal(size=(300, 3)) for strength in (1.0, 3.0))
    patients = np.arange(300)
    standards = [standard_of(one, patients) for one in (own, joint)]
    scores = [one(values) for one, values in zip(standards, (own, joint), strict=True)]
    pool = fit_pool(*standards, Evidence(*scores, labels, patients))  # type: ignore[call-arg]
    right = [(values.argmax(axis=1) == labels).mean() for values in (own, joint, pool(own, joint))]
    assert pool.share > 1
    assert right[2] >= max(right) - 0.01
