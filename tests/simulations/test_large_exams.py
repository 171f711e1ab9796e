"""Large exams are opened and scored within the memory that docs/reading.md states."""

import pytest

from simulations.studies.large_exams import BARS, IMAGES, measure

pytestmark = pytest.mark.slow


def test_a_ct_series_of_512_slices_fits_into_two_gigabytes() -> None:
    found = measure("ct")
    assert (found["images"], found["shape"]) == (IMAGES["ct"], [512, 3, 128, 128])
    assert 1e8 < found["peak_bytes"] < BARS["ct"]


def test_ten_thousand_tiles_of_a_slide_fit_into_three_gigabytes() -> None:
    pytest.importorskip("tiffslide", reason="tiffslide is not installed: pip install 'cdtl[slides]'")
    found = measure("slide")
    assert found["images"] == IMAGES["slide"]
    assert 1e8 < found["peak_bytes"] < BARS["slide"]


def test_a_part_of_a_series_is_scored_from_that_part_only() -> None:
    found = measure("ct", 1 / 64)
    assert (found["images"], len(found["score"])) == (8, 1)
