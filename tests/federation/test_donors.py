"""The share of each donor: useful and useless donors, and a single donor compared with the pool."""

import numpy as np
import pytest

from cdtl_core.federation.donors import donor_shares
from cdtl_core.federation.pool import Evidence, fit_pool, standard_of


def of_margin(margin):
    """Logits of two classes whose difference is `margin`, N 2."""
    margin = np.asarray(margin, float)
    return np.stack([-margin / 2, margin / 2], axis=1)


def site(patients, seed):
    """Labels of a site's patients, the own model's predictions for them, and the generator."""
    rng = np.random.default_rng(seed)
    labels = np.arange(patients) % 2
    return labels, of_margin(0.7 * (2 * labels - 1) + rng.normal(size=patients)), rng


def shares(own, donors, labels, seed=0):
    patients = np.arange(len(labels))
    found = donor_shares(own, donors, labels, patients, np.random.default_rng(seed))
    return {one.modality: one for one in found}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("patients", [20, 60])
def test_a_donor_that_is_right_has_a_share_above_0_and_one_that_guesses_has_not(patients, seed):
    labels, own, rng = site(patients, seed)
    truth = of_margin(3 * (2 * labels - 1) + 0.1 * rng.normal(size=patients))
    found = shares(own, {"ultrasound": truth, "mri": of_margin(rng.normal(size=patients))}, labels)
    assert found["ultrasound"].low > 0.1
    assert found["ultrasound"].value > found["mri"].value
    assert found["mri"].low < 0.01


def test_a_donor_that_is_wrong_gets_nothing_and_takes_nothing_from_the_others():
    labels, own, rng = site(200, 0)
    good, bad = (of_margin(sign * (2 * labels - 1) + rng.normal(size=200)) for sign in (1.0, -1.0))
    found = shares(own, {"good": good, "bad": bad}, labels)
    assert (found["bad"].value, found["bad"].high) == (0, 0)
    assert found["good"].value == pytest.approx(shares(own, {"good": good}, labels)["good"].value, abs=0.2)


def test_one_donor_has_the_share_of_the_pool():
    labels, own, rng = site(60, 1)
    joint, patients = of_margin((2 * labels - 1) + rng.normal(size=60)), np.arange(60)
    standards = [standard_of(one, patients) for one in (own, joint)]
    unit = [one(scores) for one, scores in zip(standards, (own, joint), strict=True)]
    pool = fit_pool(*standards, Evidence(*unit, labels, patients))  # type: ignore[arg-type, call-arg]
    assert shares(own, {"ultrasound": joint}, labels)["ultrasound"].value == pool.share


def test_without_evidence_the_interval_is_the_priors():
    """An own model that knows nothing and donors that know nothing: the prior of each of two is 0.5 +- 0.99."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(20) % 2)
    found = shares(of_margin(1e-3 * rng.normal(size=20)), {n: of_margin(rng.normal(size=20)) for n in "ab"}, labels)
    assert all(one.low == 0 and 0.8 < one.high < 3.0 for one in found.values())


def test_many_images_of_a_patient_count_as_one():
    labels, own, rng = site(40, 2)
    donor, often = of_margin((2 * labels - 1) + rng.normal(size=40)), np.repeat(np.arange(40), 3)
    once = shares(own, {"mri": donor}, labels)["mri"]
    (thrice,) = donor_shares(own[often], {"mri": donor[often]}, labels[often], often, np.random.default_rng(0))
    assert [thrice.value, thrice.low, thrice.high] == pytest.approx([once.value, once.low, once.high], abs=1e-3)


def test_too_few_patients_or_donors_that_say_nothing_have_no_shares():
    labels, own, rng = site(20, 0)
    donor = {"mri": of_margin(rng.normal(size=20))}
    assert not shares(own[:19], {"mri": donor["mri"][:19]}, labels[:19])
    assert not shares(own, donor, np.zeros(20, np.int64))
    assert not shares(own, {"mri": np.zeros((20, 2))}, labels)
    assert not shares(own, {}, labels)


def test_three_classes_have_shares_too():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    own, knows, guesses = (np.eye(3)[labels] * strength + rng.normal(size=(90, 3)) for strength in (1.0, 3.0, 0.0))
    found = shares(own, {"knows": knows, "guesses": guesses}, labels)
    assert found["knows"].low > 0.3
    assert found["guesses"].low < 0.01
