"""Claims of a comparison, and the sums behind them, against hand numbers."""

from typing import Any

import numpy as np
import pytest

from cdtl_core.metrics.metrics import sensitivity_at
from cdtl_core.results.comparison import Difference, claim_of
from cdtl_core.simulation.arms import arm_of, control_of, is_control
from cdtl_core.simulation.curves import spread
from cdtl_core.simulation.hierarchy import Figure
from cdtl_core.simulation.study import Study
from cdtl_core.simulation.summary import Block, holm, outcomes_of, rows_of
from cdtl_core.simulation.tally import join_folds, mean_of


@pytest.mark.parametrize(
    ("alone", "control", "said"),
    [
        ((0.01, 0.09, 0.01), (0.005, 0.04, 0.02), "gain"),
        ((0.01, 0.09, 0.06), (0.005, 0.04, 0.02), "no evidence of gain"),  # not after Holm
        ((0.01, 0.09, 0.01), (0.005, 0.04, 0.06), "no evidence of gain"),  # nor the control
        ((0.01, 0.09, 0.01), (-0.005, 0.04, 0.02), "no evidence of gain"),
        ((0.01, 0.09, 0.01), None, "no evidence of gain"),
        ((0.01, 0.09, 0.01), (None, None, None), "no evidence of gain"),
        ((0.0, 0.09, 0.01), (0.01, 0.04, 0.01), "no evidence of gain"),
        ((None, None, None), (0.01, 0.04, 0.01), "no evidence of gain"),
        ((-0.09, 0.0, 0.01), (0.01, 0.04, 0.01), "no evidence of gain"),
        ((-0.09, -0.01, 0.06), (0.01, 0.04, 0.01), "no evidence of gain"),
        ((-0.09, -0.01, 0.01), (0.01, 0.04, 0.01), "worse than alone"),
        ((-0.09, -0.01, 0.01), None, "worse than alone"),
    ],
)
def test_a_gain_is_claimed_after_holm_and_beyond_the_methods_own_control_only(
    alone: Any, control: Any, said: str
) -> None:
    def found(parts: Any) -> Difference:
        low, high, p = parts
        return Difference(value=0.0, low=low, high=high, p=p, p_holm=p)

    assert claim_of(found(alone), None if control is None else found(control)) == said


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([None, None]) == [None, None]


def test_each_method_is_held_against_its_own_shuffled_control() -> None:
    played = ("alone", "cdtl:shuffled", "cdtl:initial", "cdtl_from_initial_weights")
    assert control_of("cdtl", played) == "cdtl:shuffled"
    assert [control_of(name, played) for name in ("fedbn", "alone", "cdtl:shuffled")] == [None, None, None]
    controls = (
        "cdtl:shuffled",
        "fedbn:phantom",
        "cdtl:initial",
        "own_twice",
        "cdtl_from_initial_weights",
        "cdtl_fixed:initial_weights",
    )
    assert all(is_control(name) for name in controls)
    assert not any(is_control(name) for name in ("cdtl", "alone", "alone_ridge", "donors"))
    assert arm_of("fedbn:phantom").control == "phantom"


def figure(*draws: float) -> Figure:
    """Two draws or more of one receiver whose fifty resamples of patients say the same."""
    return Figure(np.array(draws), np.array([draws] * 50), 50)


def test_rows_are_means_over_receivers_and_controls_are_no_part_of_holms_family() -> None:
    study = Study(
        methods=("alone", "fedbn", "cdtl", "cdtl:shuffled"),
        seeds=(0, 1),
        patients=(20, "all"),
        targets=("a", "b"),
        donors=("other", "all"),
        folds=2,
    )

    def arms(fedbn: float, cdtl: float) -> dict[str, Figure]:
        found = {"alone": 0.7, "fedbn": 0.7 + fedbn, "cdtl": 0.7 + cdtl, "cdtl:shuffled": 0.7}
        return {name: figure(value - 0.01, value + 0.01) for name, value in found.items()}

    blocks: dict[Any, Block] = {
        ("other", 20): {"a": arms(0.01, 0.06), "b": arms(0.03, 0.04)},
        ("all", 20): {"a": arms(0.02, 0.05), "b": arms(0.02, 0.03)},
        ("other", "all"): {"a": arms(-0.01, -0.02)},
    }
    rows, compared = rows_of(study, blocks)
    assert [(row.donors, row.patients, row.method) for row in rows[::4]] == [
        ("other", 20, "alone"), ("other", "all", "alone"), ("all", 20, "alone")
    ]  # fmt: skip
    assert compared == 3 * (1 + 3)  # fedbn less alone; cdtl less alone, fedbn and its control
    first = rows[2]
    assert (first.method, first.receivers, first.worst, first.claim) == ("cdtl", ("a", "b"), "b", "gain")
    assert first.gain is not None
    assert first.less_fedbn is not None
    assert (first.gain.value, first.less_fedbn.value) == (pytest.approx(0.05), pytest.approx(0.03))
    assert [rows[3].claim, rows[3].gain.p_holm if rows[3].gain else 0] == [None, None]
    lost = rows[6]
    assert (lost.method, lost.patients, lost.claim) == ("cdtl", "all", "worse than alone")
    found = outcomes_of(study, blocks)
    assert found is not None
    assert (found.patients, found.cdtl_less_fedbn.value) == (20, pytest.approx(np.mean([0.05, 0.03, 0.01, 0.01])))
    assert (found.worst, found.worst_at) == (pytest.approx(-0.02), "a, donors other, all patients")
    assert outcomes_of(study.model_copy(update={"methods": ("alone", "fedbn")}), blocks) is None


def test_folds_are_put_together_by_image_and_runs_averaged() -> None:
    def cell(images: list[int], malignant: list[float], training: int) -> dict[str, Any]:
        labels = [image % 2 for image in images]
        rows = [[1 - p, p] for p in malignant]
        common = {"positive": 1, "training_patients": training, "patients": [image // 2 for image in images]}
        return {**common, "images": images, "labels": labels, "probabilities": rows}

    one = join_folds([cell([2, 3], [0.3, 0.9], 5), cell([0, 1], [0.2, 0.6], 6)])
    two = join_folds([cell([2, 3], [0.8, 0.1], 5), cell([1, 0], [0.7, 0.4], 5)])
    assert one.score.tolist() == [0.2, 0.6, 0.3, 0.9]
    assert one.patients.tolist() == [0, 0, 1, 1]
    assert one.folds.tolist() == [1, 1, 0, 0]
    mean = mean_of([one, two])
    assert mean.score == pytest.approx([0.3, 0.65, 0.55, 0.5])
    assert mean.truth.tolist() == [False, True, False, True]
    assert mean.training_patients == 5.25


def test_scores_are_ranked_within_their_fold_and_ties_share_their_rank() -> None:
    """A fold whose model gives all images one score says nothing, whatever the score."""
    common = {"positive": 1, "training_patients": 4, "patients": [0, 1, 2, 3], "labels": [0, 1, 0, 1]}
    flat = {**common, "images": [0, 1, 2, 3], "probabilities": [[0.1, 0.9]] * 4}
    sure = {**common, "images": [4, 5, 6, 7], "probabilities": [[0.99, 0.01], [0.98, 0.02], [0.97, 0.03], [0.98, 0.02]]}
    ranks = join_folds([flat, sure]).ranks
    assert ranks.tolist() == [0.5] * 4 + [0.125, 0.5, 0.875, 0.5]


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
