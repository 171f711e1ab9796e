"""Volumes as images in order: DICOM series, and what every volume shares."""

import os
import shutil
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cdtl_core.data.decode import reader
from cdtl_core.data.decode.plan import Survey
from cdtl_core.data.decode.read import read_images, read_picture, survey_images
from cdtl_core.data.decode.volume.geometry import stack_slices
from cdtl_core.data.fault import UnreadableError
from cdtl_core.data.frame import Slices
from cdtl_core.data.pixels import load_pixels
from cdtl_core.errors import DataError
from tests.data.volumes import AXIAL, SAGITTAL, ramp, read_or_refused, write_enhanced, write_series, write_slice
from tests.data.volumes import read_all as read

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def test_slices_come_by_position_with_their_neighbours_as_channels(tmp_path: Path) -> None:
    plan, found = read(write_series(tmp_path / "ct", ramp(5), WindowCenter=250, WindowWidth=500))
    gray = [image[..., 1] for image in found]
    assert (plan.kind, plan.total, plan.spacing_mm, plan.missing) == ("series", 5, 5.0, 0)
    assert sorted(image[0, 0] for image in gray) == [image[0, 0] for image in gray]  # from the feet up
    for place, image in enumerate(found):
        np.testing.assert_array_equal(image[..., 0], gray[max(place - 1, 0)])
        np.testing.assert_array_equal(image[..., 2], gray[min(place + 1, 4)])


def test_a_chosen_slice_has_the_neighbours_that_it_has_in_the_volume(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "mr", ramp(9))
    _, every = read(folder)
    plan, found = read(folder, "2:8:3")
    assert tuple(plan.chosen) == (2, 5)
    np.testing.assert_array_equal(found, [every[2], every[5]])
    np.testing.assert_array_equal(read_picture(folder, 5).pixels, every[5])
    np.testing.assert_array_equal(read_picture(folder).pixels, read(folder, "1")[1][0])


def test_ct_without_a_window_is_shown_as_soft_tissue(tmp_path: Path) -> None:
    stored = np.array([[[-1000, -160, 40, 239, 1000]]], np.int16) + 1024
    folder = write_series(tmp_path / "ct", stored, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    assert read(folder)[1][0][0, :, 1].tolist() == [0, 0, 128, 255, 255]


def test_the_slices_of_mr_share_one_range_and_not_each_its_own(tmp_path: Path) -> None:
    _, found = read(write_series(tmp_path / "mr", ramp(5)))
    gray = np.array([image[..., 1] for image in found])
    assert all(below.max() < above.min() for below, above in pairwise(gray))
    assert (gray.min(), gray.max()) == (0, 255)


def test_a_window_that_differs_between_slices_is_that_of_the_middle_one(tmp_path: Path) -> None:
    for place in range(3):
        told = {"WindowCenter": 50 + 500 * place, "WindowWidth": 101, "SeriesInstanceUID": "1.2"}
        write_slice(tmp_path / "mr" / f"{place}", np.full((4, 4), 550, np.int16), (0, 0, place), **told)
    assert {image[0, 0, 1] for image in read(tmp_path / "mr")[1]} == {129}


def test_pixels_become_square(tmp_path: Path) -> None:
    _, found = read(write_series(tmp_path / "mr", ramp(2, 10, 10), PixelSpacing=[3.0, 1.0]))
    assert found[0].shape == (30, 10, 3)
    rows = found[0][:, 0, 1].astype(int)
    assert (np.diff(rows) >= 0).all()


@pytest.mark.parametrize(
    ("gaps", "missing"), [((0, 5, 10, 15), 0), ((0, 5, 20, 25), 2), ((0, 5, 10, 20), 1), ((0, 5.2, 10, 15.1), 0)]
)
def test_missing_slices_are_counted(tmp_path: Path, gaps: tuple[float, ...], missing: int) -> None:
    for place, at in enumerate(gaps):
        write_slice(tmp_path / "mr" / f"{place}", ramp(1)[0], (0, 0, at), SeriesInstanceUID="1.2")
    assert read(tmp_path / "mr")[0].missing == missing


def _cut_short(folder: Path) -> None:
    path = folder / "IM0002"
    path.write_bytes(path.read_bytes()[:-20])


def _add(name: str, z: float, **told: Any) -> Callable[[Path], object]:
    return lambda folder: write_slice(folder / name, ramp(1)[0], (0, 0, z), **{"SeriesInstanceUID": "1.2", **told})


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "two series": (_add("X", 90, SeriesInstanceUID="9.9"), r"2 series \(4, 1 files\): put each series into a folder"),
    "two orientations": (
        _add("X", 90, ImageOrientationPatient=list(SAGITTAL)),
        r"two orientations \(4 and 1\): keep those of one",
    ),
    "a slice twice": (_add("X", 5), "1 slice where another slice is .*: keep one slice at each position"),
    "no position": (_add("X", 90, ImagePositionPatient=None), "1 of 5 slices without position.*export it again"),
    "another size": (
        lambda folder: write_slice(folder / "X", ramp(1, 9, 9)[0], (0, 0, 90), SeriesInstanceUID="1.2"),
        "slices of different sizes .*9 x 9.*folder of its own",
    ),
    "a damaged slice": (_cut_short, r"has a slice, IM0002, that is truncated .*: restore"),
    "several frames": (
        lambda folder: write_enhanced(folder / "X", ramp(2), (0, 1), SeriesInstanceUID="1.2"),
        "has a slice, X, that holds several frames: list that file itself",
    ),
    "a report": (lambda folder: shutil.copy(SHIPPED / "test-SR.dcm", folder / "SR"), "slice, SR, that has no pixel"),
    "nonsense spacing": (
        lambda folder: [
            write_slice(folder / f"IM{i + 1:04d}", ramp(1)[0], (0, 0, i), PixelSpacing=[1, 99], SeriesInstanceUID="1.2")
            for i in range(4)
        ],
        "pixels of 1 x 99 mm: export it again",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_series_is_a_sentence_that_names_it_and_what_to_do(tmp_path: Path, fault: str) -> None:
    spoil, says = FAULTS[fault]
    folder = write_series(tmp_path / "exam 7", ramp(4), SeriesInstanceUID="1.2")
    spoil(folder)
    with pytest.raises(DataError, match=says) as error:
        read(folder)
    assert str(error.value).startswith(f"the image {folder} ")
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_series_says_what_to_list_instead(tmp_path: Path) -> None:
    (tmp_path / "study" / "series").mkdir(parents=True)
    with pytest.raises(DataError, match="holds folders and no DICOM files: name the folder of one series"):
        read(tmp_path / "study")
    Image.new("L", (4, 4)).save(tmp_path / "study" / "series" / "a.png")
    with pytest.raises(DataError, match="list images of other formats one by one"):
        read(tmp_path / "study" / "series")


def test_files_that_are_no_dicom_are_named_in_the_plan(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "mr", ramp(3))
    (folder / "VERSION").write_text("viewer 7")
    (folder / ".hidden").touch()
    plan, found = read(folder)
    assert (len(found), list(plan.left_out)) == (3, ["VERSION"])


@given(st.permutations(range(7)), st.integers(0, 2), st.booleans())
def test_any_order_of_files_gives_the_order_along_the_patients_axis(order: list[int], axis: int, turned: bool) -> None:
    plane = np.roll(np.eye(3), axis + 1, axis=1)[:2].reshape(-1)
    plane = np.concatenate([plane[3:], plane[:3]]) if turned else plane
    stack = stack_slices(np.tile(plane, (7, 1)), np.array([np.eye(3)[axis] * 2.5 * place for place in order]))
    assert [order[at] for at in stack.order] == list(range(7))
    assert stack.spacing_mm == pytest.approx(2.5)


def test_a_tilted_series_is_ordered_along_its_own_normal() -> None:
    tilt = np.deg2rad(20)
    plane = [1, 0, 0, 0, np.cos(tilt), np.sin(tilt)]
    stack = stack_slices(np.tile(plane, (3, 1)), np.array([[0, 0, 4.0], [0, 0, 0], [0, 0, 8]]))
    assert stack.order == (1, 0, 2)
    assert stack.spacing_mm == pytest.approx(4 * np.cos(tilt))


def test_slices_at_one_place_are_refused_whatever_their_number() -> None:
    with pytest.raises(UnreadableError, match="holds 3 slices where another slice is"):
        stack_slices(np.tile(AXIAL, (6, 1)), np.repeat([[0, 0, 0.0], [0, 0, 5], [0, 0, 10]], 2, axis=0))


@pytest.mark.parametrize(("name", "says"), [("CT2", ""), ("CT5N", ""), ("MR700", r"two orientations \(6 and 1\)")])
def test_the_series_that_pydicom_ships_are_read_and_the_localiser_is_refused(name: str, says: str) -> None:
    folder = next(SHIPPED.rglob(name), None)
    if folder is None:
        pytest.skip("this pydicom does not ship it")
    if says:
        with pytest.raises(DataError, match=says):
            read(folder)
        return
    plan, found = read(folder)
    assert len(found) == plan.total == len(list(folder.iterdir()))


def test_a_reader_that_dies_in_the_middle_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "mr", ramp(10, 300, 300))  # more than the pipe holds
    _, every = read(folder)
    plan = survey_images(folder, Survey())
    pids, found = {process.pid for process in reader._idle}, []
    for number, picture in enumerate(read_images(folder, plan)):
        if number == 3:
            (pid,) = pids - {process.pid for process in reader._idle}
            os.kill(pid, signal.SIGKILL)
        found.append(picture.pixels)
    np.testing.assert_array_equal(found, every)


def test_images_of_several_files_stand_one_after_the_other(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 77).save(tmp_path / "a.png")
    files = [tmp_path / "a.png", write_series(tmp_path / "mr", ramp(3, 8, 8)), tmp_path / "a.png"]
    found = load_pixels(files, size=8, folder=tmp_path / "cache", slices=Slices(), workers=2)
    assert found.counts.tolist() == [1, 3, 1]
    assert found.array.shape == (5, 3, 8, 8)
    assert (found.array[[0, 4]] == 77).all()
    np.testing.assert_array_equal(found.array[1:4].transpose(0, 2, 3, 1), read(files[1])[1])
    assert found.bits == 16
    again = load_pixels(files, size=8, folder=tmp_path / "cache", slices=Slices())
    assert again.counts.tolist() == [1, 3, 1]


def test_a_slice_that_changed_is_decoded_again(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "mr", ramp(3, 8, 8), WindowCenter=500, WindowWidth=1001)
    first = load_pixels([folder], size=8, folder=tmp_path / "cache", slices=Slices()).array.copy()
    one = pydicom.dcmread(folder / "IM0001")
    one.PixelData = np.full((8, 8), 900, "<i2").tobytes()
    one.save_as(folder / "IM0001")
    os.utime(folder / "IM0001", ns=(1, 1))
    second = load_pixels([folder], size=8, folder=tmp_path / "cache", slices=Slices()).array
    assert (first[0] == second[0]).all()
    assert second[2, 1, 4, 4] > first[2, 1, 4, 4]


@pytest.mark.integration
@given(
    kind=st.sampled_from(["series", "enhanced"]),
    flips=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_volumes_are_read_or_refused_in_a_sentence(
    tmp_path: Path, kind: str, flips: list[tuple[int, int]]
) -> None:
    source = tmp_path / kind
    if not source.exists():
        (write_series if kind == "series" else lambda path, volume: write_enhanced(path, volume, (2, 0, 1)))(
            source, ramp(3)
        )
    path = source / "IM0002" if kind == "series" else source
    content = path.read_bytes()
    damaged = bytearray(content)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    path.write_bytes(damaged)
    try:
        read_or_refused(source, lambda: read(source)[1])
    finally:
        path.write_bytes(content)
