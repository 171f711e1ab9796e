"""What may be claimed of a comparison, and the sums behind it, against hand numbers."""

from typing import Any

import numpy as np
import pytest

from cdtl_core.learning.metrics import paired_difference, sensitivity_at
from cdtl_core.reporting.comparison import claim_of
from cdtl_core.reporting.curves import spread
from cdtl_core.reporting.report import Estimate
from simulations.arms import arm_of, is_control, theta0_control
from simulations.tally import join_folds, mean_of


@pytest.mark.parametrize(
    ("alone", "theta0", "said"),
    [
        ((0.05, 0.01, 0.09), (0.02, 0.005, 0.04), "gain"),
        ((0.05, 0.01, 0.09), (0.02, -0.005, 0.04), "no evidence of gain"),
        ((0.05, 0.01, 0.09), None, "no evidence of gain"),
        ((0.05, 0.01, 0.09), (0.02, None, None), "no evidence of gain"),
        ((0.05, 0.0, 0.09), (0.02, 0.01, 0.04), "no evidence of gain"),
        ((0.05, None, None), (0.02, 0.01, 0.04), "no evidence of gain"),
        ((-0.05, -0.09, 0.0), (0.02, 0.01, 0.04), "no evidence of gain"),
        ((-0.05, -0.09, -0.01), (0.02, 0.01, 0.04), "worse than alone"),
        ((-0.05, -0.09, -0.01), None, "worse than alone"),
    ],
)
def test_a_gain_is_claimed_beyond_alone_and_beyond_theta0_only(alone: Any, theta0: Any, said: str) -> None:
    one, two = (None if x is None else Estimate(value=x[0], low=x[1], high=x[2]) for x in (alone, theta0))
    assert one is not None
    assert claim_of(one, two) == said


def test_each_method_is_held_against_its_own_theta0_control_or_the_defaults() -> None:
    both = ("alone", "cdtl_from_theta0", "cdtl_fixed:theta0")
    assert theta0_control("cdtl_fixed", both) == "cdtl_fixed:theta0"
    assert theta0_control("fedbn", both) == "cdtl_from_theta0"
    assert theta0_control("fedbn", ("alone",)) is None
    assert theta0_control("alone", both) is None
    assert theta0_control("cdtl:shuffled", both) is None
    assert [is_control(name) for name in ("cdtl", "fedbn:phantom", "cdtl_from_theta0")] == [False, True, True]
    assert arm_of("fedbn:phantom").donors == "phantom"


def test_folds_are_put_together_by_image_and_seeds_averaged() -> None:
    def cell(images: list[int], malignant: list[float], training: int) -> dict[str, Any]:
        labels = [image % 2 for image in images]
        rows = [[1 - p, p] for p in malignant]
        common = {"positive": 1, "training_patients": training, "patients": [image // 2 for image in images]}
        return {**common, "images": images, "labels": labels, "probabilities": rows}

    one = join_folds([cell([2, 3], [0.3, 0.9], 5), cell([0, 1], [0.2, 0.6], 6)])
    two = join_folds([cell([1, 2], [0.8, 0.1], 5), cell([3, 0], [0.7, 0.4], 5)])
    assert one.score.tolist() == [0.2, 0.6, 0.3, 0.9]
    assert one.patients.tolist() == [0, 0, 1, 1]
    mean = mean_of([one, two])
    assert mean.score == pytest.approx([0.3, 0.7, 0.2, 0.8])
    assert mean.truth.tolist() == [False, True, False, True]
    assert mean.training_patients == 5.25


def test_sensitivity_at_a_specificity_by_hand() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.92, 0.97, 0.5])
    positive = np.array([False] * 10 + [True] * 3)
    assert sensitivity_at(positive, scores, specificity=0.9) == pytest.approx(2 / 3)  # above 0.9, one false alarm
    assert sensitivity_at(positive, scores, specificity=1.0) == pytest.approx(1 / 3)
    assert sensitivity_at(positive, scores, specificity=0.5) == pytest.approx(2 / 3)  # 0.5 ties with a negative
    assert np.isnan(sensitivity_at(positive[:9], scores[:9], specificity=0.9))


def test_labels_keep_their_distance_and_their_order() -> None:
    assert spread([0.7, 0.5], 0.1) == [0.7, 0.5]
    assert spread([0.6, 0.6, 0.2], 0.1) == pytest.approx([0.55, 0.65, 0.2])
    assert spread([0.5, 0.49, 0.51], 0.1) == pytest.approx([0.5, 0.4, 0.6])


def test_differences_are_paired_by_patient() -> None:
    """The draws that a comparison shares among methods are those of `paired_difference`."""
    from cdtl_core.learning.metrics import bootstrap_auroc

    rng = np.random.default_rng(0)
    positive, patients = rng.random(90) < 0.4, rng.integers(0, 40, 90)
    one, two = rng.normal(size=90) + positive, rng.normal(size=90)
    found = bootstrap_auroc(positive, one, patients, seed=3).less(bootstrap_auroc(positive, two, patients, seed=3))
    assert found == paired_difference(positive, one, two, patients, seed=3)
