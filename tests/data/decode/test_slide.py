"""Whole slides: tissue is found, tiles come at the wanted resolution, and what is no usable slide is a sentence."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdtl_core.data.decode import reader
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.read import read_images, survey_images
from cdtl_core.data.decode.slide.tissue import covered, tissue_mask
from cdtl_core.data.facts import ImageFacts, examine
from cdtl_core.data.frame import Slices
from cdtl_core.data.pixels import load_pixels
from cdtl_core.errors import DataError
from tests.data.volumes import read_or_refused, write_slide

pytestmark = pytest.mark.skipif(
    not (find_spec("tiffslide") and find_spec("tifffile")), reason="not installed: pip install 'cdtl[slides]'"
)  # looked for, not imported: that takes a second of each process of tests

SIDE = 1024
GLASS, PINK = np.array([243, 242, 244], np.uint8), np.array([214, 120, 176], np.uint8)


def picture(rows: slice, columns: slice) -> np.ndarray:
    """A slide with tissue in one rectangle, whose shade tells the place."""
    pixels = np.tile(GLASS, (SIDE, SIDE, 1))
    pixels[rows, columns] = PINK
    y, x = np.mgrid[:SIDE, :SIDE]
    shade = (y // 128 + x // 128).astype(np.uint8) * 4
    pixels[rows, columns, 1] += shade[rows, columns]
    return pixels


def read(path: Path, um: float, slices: str = "all", size: int = 64) -> tuple[Plan, list[np.ndarray]]:
    plan = survey_images(path, Survey(Slices.parse(slices), size, um))
    return plan, [one.pixels for one in read_images(path, plan)]


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "slide.tiff", picture(slice(256, 680), slice(100, 548)))


@pytest.mark.parametrize(("um", "side"), [(0.5, 64), (1.0, 128), (2.0, 256), (0.0, 64)])
def test_tiles_with_tissue_come_row_by_row_at_the_wanted_resolution(slide: Path, um: float, side: int) -> None:
    plan, found = read(slide, um)
    expected = [
        (x, y)
        for y in range(0, SIDE, side)
        for x in range(0, SIDE, side)
        if min(y + side, 680) - max(y, 256) > 0 and min(x + side, 548) - max(x, 100) > 0
        and (min(y + side, 680) - max(y, 256)) * (min(x + side, 548) - max(x, 100)) >= 0.5 * side**2
    ]  # fmt: skip
    assert [tuple(place) for place in plan.items] == expected
    assert plan.kind == "slide"
    for (x, y), tile in zip(expected, found, strict=True):
        assert tile.shape == (64, 64, 3)
        row, column = (min(max(at + side // 2, low + 8), high - 8) for at, low, high in ((y, 256, 680), (x, 100, 548)))
        seen = tile[(row - y) * 64 // side, (column - x) * 64 // side]
        assert abs(int(seen[1]) - int(PINK[1]) - 4 * (row // 128 + column // 128)) <= 4


def test_a_number_of_tiles_is_spread_over_the_tissue(slide: Path) -> None:
    plan, found = read(slide, 0.5, "4")
    assert (len(found), plan.total) == (4, 48)
    assert len({y for _, y in plan.items}) == 4


def test_a_level_that_does_not_fit_is_resampled(slide: Path) -> None:
    plan, found = read(slide, 0.75)
    assert plan.level == (0, 96, 64)
    assert all(tile.shape == (64, 64, 3) for tile in found)


def test_a_slide_without_coarse_levels_is_read_as_well(tmp_path: Path) -> None:
    pixels = np.tile(picture(slice(0, 1024), slice(0, 512)), (5, 5, 1))
    path = write_slide(tmp_path / "flat.tiff", pixels, levels=1)
    plan, found = read(path, 2.0)
    assert plan.total == len(found) == 20 * 10


@pytest.mark.parametrize(
    ("pixels", "um", "asked", "says"),
    [
        (picture(slice(0, 0), slice(0, 0)), 0.5, 1.0, "shows no tissue: .*scan it again, or leave it out"),
        (picture(slice(0, 40), slice(0, 40)), 0.5, 4.0, "half of no tile: set data.tile_um lower"),
        (picture(slice(0, 512), slice(0, 512)), None, 1.0, "does not say how many micrometres .*data.tile_um = 0"),
        (picture(slice(0, 512), slice(0, 512)), 0.5, 0.25, "has 0.50 micrometres per pixel.*0.25: set data.tile_um"),
        (picture(slice(0, 512), slice(0, 512)), 0.5, 500.0, "has no level near 500 micrometres"),
    ],
)
def test_a_fault_is_a_sentence_that_names_the_slide_and_what_to_do(
    tmp_path: Path, pixels: np.ndarray, um: float | None, asked: float, says: str
) -> None:
    path = write_slide(tmp_path / "exam.tiff", pixels, um=um)
    with pytest.raises(DataError, match=says) as error:
        read(path, asked)
    assert str(error.value).startswith(f"the image {path} ")


def test_a_damaged_tile_is_refused_with_its_place(slide: Path) -> None:
    import tifffile

    with tifffile.TiffFile(slide) as file:
        page = file.pages[0]
        at, length = page.dataoffsets[5], page.databytecounts[5]
    content = bytearray(slide.read_bytes())
    content[at : at + length] = bytes(length)
    slide.write_bytes(content)
    with pytest.raises(DataError, match=r"has a part that cannot be decoded \(.* on level 0: DeflateError\)"):
        read(slide, 0.5)


def test_tiles_become_rows_of_the_decoded_cohort(slide: Path, tmp_path: Path) -> None:
    _, tiles = read(slide, 1.0, "5")
    found = load_pixels([slide], size=64, folder=tmp_path / "cache", slices=Slices(5), tile_um=1.0)
    assert found.counts.tolist() == [5]
    np.testing.assert_array_equal(found.array.transpose(0, 2, 3, 1), tiles)
    assert load_pixels([slide], size=64, folder=tmp_path / "cache", slices=Slices(5), tile_um=2.0).counts.sum() < 5


def test_a_small_tiled_image_is_no_slide(tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(
        tmp_path / "a.tiff", picture(slice(0, 9), slice(0, 9))[:300, :300], tile=(128, 128), photometric="rgb"
    )
    assert survey_images(tmp_path / "a.tiff", Survey()).kind == "image"


def test_a_large_gray_image_in_tiles_is_no_slide(tmp_path: Path) -> None:
    """The check of a run of images refused such a film, which is read as ever."""
    import tifffile

    film = np.tile(np.arange(256, dtype=np.uint8), (300, 17))
    tifffile.imwrite(tmp_path / "a.tiff", film, tile=(128, 128))
    assert survey_images(tmp_path / "a.tiff", Survey()).kind == "image"
    assert isinstance(examine(tmp_path / "a.tiff"), ImageFacts)


def test_without_tiffslide_the_sentence_says_what_to_install(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slide.parent / "hidden").mkdir()
    (slide.parent / "hidden" / "tiffslide.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", os.fspath(slide.parent / "hidden"))
    monkeypatch.setattr(reader, "_idle", [])
    with pytest.raises(DataError, match=r"need the package tiffslide.*pip install 'cdtl\[slides\]'"):
        read(slide, 1.0)
    for process in reader._idle:
        reader._end(process)


def test_a_directory_that_claims_a_huge_image_is_refused_at_once(slide: Path) -> None:
    import tifffile

    with tifffile.TiffFile(slide) as file:
        place = file.pages[0].tags["ImageLength"].valueoffset
    content = bytearray(slide.read_bytes())
    content[place : place + 4] = (335_544_832).to_bytes(4, "little")
    slide.write_bytes(content)
    with pytest.raises(DataError, match="claims 1024 x 335544832 pixels, and a side has 400000 at most"):
        read(slide, 1.0)


@pytest.mark.integration
@given(st.lists(st.tuples(st.integers(-3000, 600), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_slide_is_read_or_refused_in_a_sentence(slide: Path, flips: list[tuple[int, int]]) -> None:
    content = slide.read_bytes()
    damaged = bytearray(content)
    for place, value in flips:
        damaged[place] = value
    slide.write_bytes(damaged)
    try:
        read_or_refused(slide, lambda: read(slide, 1.0, "10")[1])
    finally:
        slide.write_bytes(content)


def test_tissue_is_coloured_and_pen_and_dust_are_not() -> None:
    pixels = np.tile(GLASS, (200, 200, 1))
    pixels[20:80, 20:80] = PINK
    pixels[120:180, 20:80] = 15  # pen
    pixels[150, 150] = PINK  # dust
    mask = tissue_mask(pixels)
    assert mask[22:78, 22:78].all()
    assert not mask[100:].any()
    shares = covered(mask, np.array([[20.0, 20, 80, 80], [0, 100, 200, 200], [0, 0, 200, 200]]))
    assert shares[0] > 0.99
    assert shares[1] == 0
    assert shares[2] == pytest.approx(0.09, abs=0.003)
