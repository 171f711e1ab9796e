"""Facts of one image: hand numbers, and a sentence for every file that cannot be decoded."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cdtl_core.data.facts import Fault, ImageFacts, examine, examine_all
from cdtl_core.data.glyphs import count_glyphs
from cdtl_core.system.progress import listen


def facts_of(file: Path, pixels: np.ndarray, **options: object) -> ImageFacts:
    Image.fromarray(pixels).save(file, **options)  # type: ignore[arg-type]
    found = examine(file)
    assert isinstance(found, ImageFacts)
    return found


def test_facts_of_a_half_black_half_white_image(tmp_path: Path) -> None:
    pixels = np.zeros((64, 128), np.uint8)
    pixels[:, 64:] = 255
    facts = facts_of(tmp_path / "a.png", pixels)
    assert (facts.width, facts.height, facts.bits, facts.format, facts.is_colour) == (128, 64, 8, "PNG", False)
    assert (facts.mean, facts.std) == (127.5, 127.5)
    assert (facts.histogram[0], facts.histogram[-1]) == (0.5, 0.5)
    assert facts.edges == (127.5, 127.5, 127.5, 127.5, 0.0, 0.0, 255.0, 0.0)  # mean and deviation of each edge
    assert facts.thumbnail.shape == (32, 32)
    assert (facts.thumbnail[0, 0], facts.thumbnail[-1, -1]) == (0, 255)
    assert facts.file_sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert not facts.is_empty


def test_the_same_pixels_in_another_format_have_the_same_pixel_hash_only(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    first, second = facts_of(tmp_path / "a.png", pixels), facts_of(tmp_path / "a.bmp", pixels)
    assert first.pixels_sha256 == second.pixels_sha256
    assert first.file_sha256 != second.file_sha256
    assert facts_of(tmp_path / "b.png", pixels.reshape(50, 40)).pixels_sha256 != first.pixels_sha256


def test_colour_is_measured(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:10] = (200, 20, 20)
    facts = facts_of(tmp_path / "a.png", pixels)
    assert facts.is_colour
    assert facts.coloured == 0.25


def test_an_image_and_its_negative_have_opposite_skews_and_equal_bands(tmp_path: Path) -> None:
    pixels = np.full((128, 128), 40, np.uint8)
    pixels[30:33, 50:53] = 220
    bright, dark = facts_of(tmp_path / "a.png", pixels), facts_of(tmp_path / "b.png", 255 - pixels)
    assert bright.skews[0] > 1
    assert np.allclose(bright.skews, -np.array(dark.skews), atol=1e-3)
    assert np.allclose(bright.bands, dark.bands, atol=1e-4)


@given(cut=st.integers(0, 4000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=4))
def test_a_damaged_file_gives_facts_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60), np.uint8)).save(file)
    content = bytearray(file.read_bytes())
    for place, mask in flips:
        content[place % len(content)] ^= mask
    file.write_bytes(content[: max(0, len(content) - cut)])
    found = examine(file)
    assert isinstance(found, ImageFacts) or (found.sentence.endswith(".") and "\n" not in found.sentence)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 5), (2000, 20)])
def test_any_shape_has_facts(tmp_path: Path, shape: tuple[int, int]) -> None:
    facts = facts_of(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, shape, np.uint8))
    assert (facts.height, facts.width) == shape
    assert np.isfinite([facts.mean, facts.std, *facts.edges, *facts.bands, *facts.skews]).all()


@pytest.mark.integration
@pytest.mark.parametrize("count", [3, 230])
def test_all_are_examined_in_order_with_progress(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths[1:]):
        Image.fromarray(np.full((8, 8), i % 250, np.uint8)).save(path)
    seen: list[object] = []
    with listen(lambda fields: seen.append((fields["examined"], fields["of"]))):
        found = examine_all(paths, workers=2)
    assert [one.file for one in found] == paths
    assert isinstance(found[0], Fault)
    assert all(isinstance(one, ImageFacts) for one in found[1:])
    assert seen == [(i, count) for i in range(1, count + 1)]


def test_glyphs_in_a_row_are_counted_and_single_marks_are_not() -> None:
    image = Image.new("L", (256, 256), 30)
    draw = ImageDraw.Draw(image)
    assert count_glyphs(np.asarray(image)) == 0
    for x, y in ((20, 40), (120, 90), (200, 200), (60, 160)):
        draw.line((x - 4, y, x + 4, y), fill=255)
        draw.line((x, y - 4, x, y + 4), fill=255)
    assert count_glyphs(np.asarray(image)) == 1  # callipers
    draw.text((20, 230), "MAMA ESQUERDA", fill=255)
    assert count_glyphs(np.asarray(image)) >= 6
    assert count_glyphs(255 - np.asarray(image)) >= 6
