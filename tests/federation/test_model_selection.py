"""Model selection: the pool, unless enough patients are predicted better by the own model."""

import numpy as np
import pytest

from cdtl_core.federation.model_selection import select_model

OWN = np.linspace(0.2, 0.9, 20)


def chosen(pool, own=OWN, standard_errors=1.0):
    return select_model({"own": own, "joint": own + 1, "pool": pool}, standard_errors=standard_errors).chosen


def test_the_pool_is_used_unless_it_is_worse_by_a_standard_error() -> None:
    noise = np.tile([0.1, -0.1], 10)  # its standard error over 20 patients is 0.0229
    assert chosen(OWN + noise + 0.02) == "pool"
    assert chosen(OWN + noise + 0.03) == "own"
    assert chosen(OWN + noise - 0.5) == "pool"
    assert chosen(OWN + noise + 0.03, standard_errors=2.0) == "pool"
    assert select_model({"own": OWN, "pool": OWN + noise + 0.03}, standard_errors=1.0).excess == pytest.approx(
        1.3, abs=0.05
    )


def test_fewer_than_twenty_patients_decide_nothing() -> None:
    assert chosen(OWN[:19] + 5, OWN[:19]) == "pool"
    assert chosen(OWN + 5) == "own"


def test_equal_losses_keep_the_pool() -> None:
    assert chosen(OWN, standard_errors=0.0) == "pool"


def test_the_selection_can_be_switched_off() -> None:
    assert chosen(OWN + 5, standard_errors=None) == "pool"


@pytest.mark.parametrize("name", ["own", "joint"])
def test_a_site_with_one_model_uses_it(name: str) -> None:
    assert select_model({name: np.empty(0)}, standard_errors=1.0).chosen == name
