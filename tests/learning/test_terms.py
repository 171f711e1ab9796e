"""Terms that promise nothing are refused."""

import pytest

from cdtl_core.config import DpConfig
from cdtl_core.errors import PrivacyError
from cdtl_core.learning.privacy import check_terms


@pytest.mark.parametrize(("delta", "patients", "says"), [(1e-2, 100, "dp.target_delta"), (1e-5, 0, "fewer than 5")])
def test_terms_that_promise_nothing_are_refused(delta: float, patients: int, says: str) -> None:
    with pytest.raises(PrivacyError, match=says):
        check_terms(DpConfig(target_delta=delta), patients)


def test_usual_terms_pass() -> None:
    check_terms(DpConfig(), 750)
