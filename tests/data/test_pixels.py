"""Reading images, squaring them, and keeping them decoded on disk."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.data import pixels as pixels_module
from cdtl_core.data.cohort import build_cohort
from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.read import fit_square, read_image, read_picture
from cdtl_core.data.manifest import Case
from cdtl_core.data.pixels import load_pixels
from cdtl_core.errors import DataError


def write(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def gradient(height: int, width: int) -> np.ndarray:
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_gray_and_colour_files_keep_their_values(tmp_path: Path, suffix: str) -> None:
    gray, colour = gradient(6, 9), np.stack([gradient(6, 9), gradient(6, 9)[::-1], gradient(6, 9)], axis=2)
    np.testing.assert_array_equal(read_image(write(tmp_path / f"g.{suffix}", gray)), gray)
    np.testing.assert_array_equal(read_image(write(tmp_path / f"c.{suffix}", colour)), colour)


def test_a_gray_image_stored_in_colour_is_gray(tmp_path: Path) -> None:
    stored = np.repeat(gradient(5, 5)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(write(tmp_path / "x.png", stored)), gradient(5, 5))


def test_sixteen_bits_are_scaled_from_their_full_range(tmp_path: Path) -> None:
    deep = np.array([[0, 257], [32896, 65535]], np.uint16)
    np.testing.assert_array_equal(read_image(write(tmp_path / "x.png", deep)), [[0, 1], [128, 255]])


@pytest.mark.parametrize("fault", ["missing", "truncated", "text", "empty", "folder"])
def test_what_cannot_be_read_is_refused_with_the_file_named(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "scan.png"
    match fault:
        case "truncated":
            write(path, np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
            path.write_bytes(path.read_bytes()[:2000])
        case "text":
            path.write_text("this is no image")
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
    with pytest.raises(DataError, match=r"scan\.png"):
        read_image(path)


def test_squares_keep_the_aspect_and_pad_with_black() -> None:
    square = fit_square(np.full((50, 100), 200, np.uint8), 64)
    assert square.shape == (64, 64)
    assert (square[16:48] == 200).all()
    assert (square[:16] == 0).all()
    assert fit_square(np.full((3, 500, 3), 9, np.uint8), 32).shape == (32, 32, 3)


def test_images_are_decoded_once_and_again_only_when_a_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(tmp_path / f"{i}.png", np.full((8, 8), 10 * i, np.uint8)) for i in range(5)]
    decoded: list[Path] = []

    def counting(path: Path, frame: str) -> Picture:
        decoded.append(path)
        return read_picture(path, frame)  # type: ignore[arg-type]

    monkeypatch.setattr(pixels_module, "read_picture", counting)
    first = load_pixels(files, size=32, folder=tmp_path / "cache").array
    assert first.shape == (5, 1, 32, 32)
    assert isinstance(first, np.memmap)
    assert [int(image[0, 16, 16]) for image in first] == [0, 10, 20, 30, 40]
    load_pixels(files, size=32, folder=tmp_path / "cache")
    assert len(decoded) == 5
    write(files[2], np.full((8, 8), 99, np.uint8))
    os.utime(files[2], ns=(1, 1))
    assert load_pixels(files, size=32, folder=tmp_path / "cache").array[2, 0, 16, 16] == 99
    load_pixels(files, size=48, folder=tmp_path / "cache")
    assert len(decoded) == 15


def test_one_colour_image_makes_a_colour_cohort(tmp_path: Path) -> None:
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 0] = 200
    files = [write(tmp_path / "a.png", gradient(8, 8)), write(tmp_path / "b.png", colour)]
    found = load_pixels(files, size=32, folder=tmp_path / "cache").array
    assert found.shape == (2, 3, 32, 32)
    assert found[1, :, 16, 16].tolist() == [200, 0, 0]
    assert len(set(found[0, :, 16, 16].tolist())) == 1


def test_a_bad_image_leaves_no_half_written_cache(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.png", gradient(8, 8)), tmp_path / "b.png"]
    files[1].write_text("no image")
    with pytest.raises(DataError, match=r"b\.png"):
        load_pixels(files, size=32, folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cohorts_folds_share_no_patient_and_point_at_the_right_images(tmp_path: Path) -> None:
    found = [
        Case(write(tmp_path / f"{i}.png", np.full((8, 8), 10 * i, np.uint8)), i % 2, f"p{i // 2}") for i in range(12)
    ]
    split = {f"p{i}": name for i, name in enumerate(("train", "train", "train", "val", "test", "test"))}
    cohort = build_cohort(found, split, labels=("no", "yes"), size=32, cache=tmp_path / "cache")  # type: ignore[arg-type]
    assert {name: fold.num_patients for name, fold in cohort.folds.items()} == {"train": 3, "val": 1, "test": 2}
    assert cohort.num_patients == 6
    patients = [patient for fold in cohort.folds.values() for patient in set(fold.patients.tolist())]
    assert len(patients) == len(set(patients)) == 6
    test = cohort.folds["test"]
    assert [int(test.pixels[row, 0, 16, 16]) for row in test.rows] == [80, 90, 100, 110]
    assert test.labels.tolist() == [0, 1, 0, 1]


def test_strict_notices_a_change_that_size_and_time_do_not_show(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"  # a BMP of equal dimensions has an equal size
    for value, strict_sees in ((10, 10), (99, 99)):
        write(path, np.full((8, 8), value, np.uint8))
        os.utime(path, ns=(1, 1))
        assert load_pixels([path], size=32, folder=tmp_path / "strict", strict=True).array[0, 0, 16, 16] == strict_sees
    loose = load_pixels([path], size=32, folder=tmp_path / "loose").array[0, 0, 16, 16]
    write(path, np.full((8, 8), 10, np.uint8))
    os.utime(path, ns=(1, 1))
    assert load_pixels([path], size=32, folder=tmp_path / "loose").array[0, 0, 16, 16] == loose == 99


def test_the_bits_of_the_deepest_file_are_kept(tmp_path: Path) -> None:
    deep = write(tmp_path / "deep.png", np.array([[0, 65535]], np.uint16))
    files = [write(tmp_path / "a.png", gradient(8, 8)), deep]
    assert load_pixels(files, size=32, folder=tmp_path / "cache").bits == 16
    assert load_pixels(files, size=32, folder=tmp_path / "cache").bits == 16
