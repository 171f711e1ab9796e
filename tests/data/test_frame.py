"""Which images of a file with several are used: `data.slices`, and one frame by `data.frame`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdtl_core.data.fault import UnreadableError
from cdtl_core.data.frame import Slices, choose_frame
from cdtl_core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "count", "chosen"),
    [
        ("all", 4, (0, 1, 2, 3)),
        ("1", 9, (4,)),
        (3, 9, (1, 4, 7)),
        ("5", 3, (0, 1, 2)),
        ("2:5", 9, (2, 3, 4)),
        ("1:8:3", 9, (1, 4, 7)),
        ("6:", 8, (6, 7)),
        (":2", 8, (0, 1)),
        ("100:300", 200, tuple(range(100, 200))),
        ("100:300", 1, (0,)),
    ],
)
def test_each_form_chooses_images(text: str | int, count: int, chosen: tuple[int, ...]) -> None:
    assert Slices.parse(text).choose(count) == chosen


@pytest.mark.parametrize("text", ["", "none", "0", "-3", "5:5", "5:2", "1:9:0", "1:2:3:4", "1.5"])
def test_another_form_is_refused_with_the_forms_that_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.slices is .*100:300:2"):
        Slices.parse(text)


def test_a_range_beyond_the_file_is_refused_with_what_the_file_has() -> None:
    with pytest.raises(UnreadableError, match="has 80 images and the range asked for begins at 100") as fault:
        Slices.parse("100:300").choose(80)
    assert "0:80" in fault.value.do


@given(st.integers(1, 400), st.integers(1, 600))
def test_evenly_spaced_images_ascend_within_the_file_and_reach_both_halves(number: int, count: int) -> None:
    chosen = Slices.parse(number).choose(count)
    assert len(chosen) == min(number, count)
    assert list(chosen) == sorted(set(chosen))
    assert chosen[0] >= 0
    assert chosen[-1] < count
    assert chosen[0] + chosen[-1] in range(count - 2, count + 1)


@pytest.mark.parametrize("text", ["all", "7", "3:9", "3:", "0:9:2"])
def test_a_choice_is_written_as_it_is_read(text: str) -> None:
    assert str(Slices.parse(text)) == text


def test_one_slice_is_the_middle_frame() -> None:
    assert all(Slices.parse(1).choose(count) == (choose_frame("middle", count),) for count in range(1, 20))
