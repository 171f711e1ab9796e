"""The loss attack against hand numbers."""

import numpy as np
import pytest

from cdtl_core.privacy.membership import membership, true_positive_rate


def test_members_that_fit_better_are_found() -> None:
    members, others = np.linspace(0, 1, 50), np.linspace(2, 3, 120)
    found = membership(members, others, seed=0)
    assert (found.auroc.value, found.tpr.value, found.tpr.low) == (1.0, 1.0, 1.0)
    assert (found.members, found.others) == (50, 120)


def test_the_threshold_lets_one_in_a_hundred_others_pass() -> None:
    members, others = np.array([0.05, 0.15, 0.25]), np.arange(1, 101) / 10
    assert true_positive_rate(members, others) == pytest.approx(2 / 3)  # one other, 0.1, is below 0.2
    assert true_positive_rate(members, others[:99]) == pytest.approx(1 / 3)
    assert true_positive_rate(np.zeros(5), np.zeros(5)) == 0


def test_json_has_no_number_where_there_is_no_interval() -> None:
    found = membership(np.zeros(3), np.ones(3), seed=0).as_dict()
    assert (found["auroc"]["value"], found["auroc"]["low"]) == (1.0, None)
