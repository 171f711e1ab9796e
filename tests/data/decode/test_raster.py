"""PNG, JPEG, TIFF, BMP and PNM files of every kind to pictures."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdtl_core.data.decode.read import read_image, read_picture
from cdtl_core.data.frame import Frame
from cdtl_core.errors import DataError

GRAY = np.linspace(0, 255, 6 * 9).reshape(6, 9).astype(np.uint8)
COLOUR = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], axis=2)


def save(path: Path, array: np.ndarray, mode: str = "", **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("suffix", "array", "mode", "bits", "kind"),
    [
        ("png", GRAY, "", 8, "PNG"),
        ("png", COLOUR, "", 8, "PNG"),
        ("png", COLOUR, "RGBA", 8, "PNG"),
        ("png", GRAY, "LA", 8, "PNG"),
        ("png", GRAY, "P", 8, "PNG"),
        ("png", GRAY.astype(np.uint16) * 257, "", 16, "PNG"),
        ("bmp", GRAY, "", 8, "BMP"),
        ("bmp", COLOUR, "", 8, "BMP"),
        ("pgm", GRAY, "", 8, "PPM"),
        ("tif", GRAY, "", 8, "TIFF"),
        ("tif", COLOUR, "", 8, "TIFF"),
        ("tif", GRAY.astype(np.uint16) * 257, "", 16, "TIFF"),
        ("tif", GRAY.astype(np.float32) / 255, "", 32, "TIFF"),
        ("tif", GRAY.astype(np.int32) - 100, "", 32, "TIFF"),
    ],
)
def test_values_bits_and_format(
    tmp_path: Path, suffix: str, array: np.ndarray, mode: str, bits: int, kind: str
) -> None:
    found = read_picture(save(tmp_path / f"x.{suffix}", array, mode))
    np.testing.assert_array_equal(found.pixels, COLOUR if array is COLOUR else GRAY)
    assert (found.bits, found.format, found.tags) == (bits, kind, None)
    assert found.is_colour == (array is COLOUR)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_one_bit_images_are_black_and_white(tmp_path: Path, suffix: str) -> None:
    found = read_picture(save(tmp_path / f"x.{suffix}", (GRAY > 99).astype(np.uint8) * 255, "1"))
    np.testing.assert_array_equal(found.pixels, np.where(GRAY > 99, 255, 0))
    assert found.bits == 1 or suffix == "bmp"


def test_colour_jpegs_of_three_and_four_inks_are_rgb(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.array([200, 120, 40], np.uint8), (32, 32, 3)).copy()
    for mode in ("RGB", "CMYK"):
        found = read_image(save(tmp_path / f"{mode}.jpg", smooth, mode, quality=95))
        assert np.abs(found.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_images_are_turned_as_the_camera_was_held(tmp_path: Path, suffix: str) -> None:
    array = np.zeros((16, 32), np.uint8)
    array[:, :16] = 255
    exif = Image.Exif()
    exif[274] = 6
    options = {"exif": exif} if suffix == "jpg" else {"tiffinfo": {274: 6}}
    found = read_image(save(tmp_path / f"x.{suffix}", array, **options))
    assert found.shape == (32, 16)
    assert found[2].mean() > 250
    assert found[-2].mean() < 5


def test_orientation_that_cannot_be_read_is_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", np.full((8, 16), 77, np.uint8), exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert read_image(path).shape == (8, 16)


@pytest.mark.parametrize(("frame", "value"), [("first", 0), ("middle", 50), ("last", 90), (1, 10)])
def test_a_tiff_of_many_pages_gives_the_chosen_one(tmp_path: Path, frame: Frame, value: int) -> None:
    pages = [Image.fromarray(np.full((4, 5), 10 * index, np.uint8)) for index in range(10)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    assert np.unique(read_image(tmp_path / "x.tif", frame)).tolist() == [value]
    with pytest.raises(DataError, match="has 10 frames, the frame asked for is 10"):
        read_image(tmp_path / "x.tif", 10)


def test_a_tiffs_thumbnails_are_no_pages(tmp_path: Path) -> None:
    big, small = Image.fromarray(GRAY), Image.fromarray(GRAY[:3, :4])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    big.save(tmp_path / "x.tif", save_all=True, append_images=[small])
    assert read_image(tmp_path / "x.tif", "last").shape == GRAY.shape


def test_a_deep_film_that_stores_white_as_zero_is_inverted(tmp_path: Path) -> None:
    path = save(tmp_path / "x.tif", GRAY.astype(np.uint16) * 257, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(path), 255 - GRAY)


def test_floats_are_stretched_and_nan_is_black(tmp_path: Path) -> None:
    values = np.array([[-1.0, np.nan, 0.0, 3.0]], np.float32)
    np.testing.assert_array_equal(read_image(save(tmp_path / "x.tif", values)), [[0, 0, 64, 255]])


@pytest.mark.parametrize("suffix", ["gif", "webp", "eps", "jp2"])
def test_formats_that_programs_seldom_check_are_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match="is in no format that can be read: convert it"):
        read_picture(save(tmp_path / f"x.{suffix}", COLOUR))


def test_too_many_pixels_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "x.bmp", GRAY)
    data = bytearray(path.read_bytes())
    data[18:26] = (30_000).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(DataError, match="claims too many pixels: export it at a lower resolution"):
        read_picture(path)
    data = bytearray(path.read_bytes())
    data[18:26] = (13_000).to_bytes(4, "little") + (12_000).to_bytes(4, "little")
    data[28:30] = (24).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="claims 13000 x 12000 pixels, 624 MB where 400 MB is the most"):
        read_picture(path)


def test_a_pipe_is_no_file_to_wait_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png is no file"):
        read_picture(tmp_path / "x.png")
