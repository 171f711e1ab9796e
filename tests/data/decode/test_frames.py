"""Files with several images: multi-frame DICOM and multi-page TIFF, and files with one."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import RLELossless

from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.read import read_picture, survey_images
from cdtl_core.errors import DataError
from tests.data.volumes import ramp, write_enhanced, write_series, write_slice
from tests.data.volumes import read_all as read

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def test_an_enhanced_file_gives_what_the_series_gives(tmp_path: Path) -> None:
    volume = ramp(5)
    series, enhanced = (
        read(write_series(tmp_path / "series", volume)),
        read(write_enhanced(tmp_path / "one.dcm", volume, (3, 0, 4, 2, 1))),
    )
    assert (enhanced[0].kind, enhanced[0].spacing_mm) == ("volume", 5.0)
    np.testing.assert_array_equal(enhanced[1], series[1])


def test_compressed_frames_without_a_table_of_offsets_are_found(tmp_path: Path) -> None:
    plain = write_enhanced(tmp_path / "plain.dcm", ramp(5), (3, 0, 4, 2, 1))
    data = pydicom.dcmread(plain)
    data.compress(RLELossless)
    frames = list(generate_frames(data.PixelData, number_of_frames=5))
    data.PixelData = encapsulate(frames, has_bot=False)
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "packed.dcm")
    np.testing.assert_array_equal(read(tmp_path / "packed.dcm")[1], read(plain)[1])


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "SC_rgb_rle_2frame.dcm", "rtdose_rle.dcm"])
def test_frames_without_places_are_images_as_they_are(name: str) -> None:
    path = next(SHIPPED.rglob(name), None)
    if path is None:
        pytest.skip("this pydicom does not ship it")
    plan, found = read(path, "4")
    assert plan.kind == "frames"
    assert len(found) == min(4, plan.total)
    for index, image in zip(plan.chosen, found, strict=True):
        np.testing.assert_array_equal(image, read_picture(path, index).pixels)


def test_a_header_that_claims_billions_of_frames_is_refused_at_once(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "a.dcm", ramp(3), (0, 1, 2), NumberOfFrames=2_000_000_000)
    with pytest.raises(DataError, match="claims 2000000000 frames, where 65536 is the most"):
        read(path)
    path = write_enhanced(tmp_path / "b.dcm", ramp(3), (0, 1, 2), NumberOfFrames=60_000)
    with pytest.raises(DataError, match=r"is truncated .*the last of its 60000 frames"):
        read(path)


def test_frames_that_a_header_claims_and_the_file_lacks_take_no_disk(tmp_path: Path) -> None:
    """The survey tells how much disk the decoded images need: 9 GB for a claim of 60,000 frames."""
    path = write_slice(tmp_path / "cine.dcm", ramp(1)[0], (0, 0, 0), NumberOfFrames=60_000)
    assert path.stat().st_size < 2000
    with pytest.raises(DataError, match=r"is truncated \(its pixel data end before the last of its 60000 frames does"):
        survey_images(path, Survey())


def test_compressed_frames_that_a_header_claims_and_the_file_lacks_take_no_disk(tmp_path: Path) -> None:
    data = pydicom.dcmread(write_enhanced(tmp_path / "plain.dcm", ramp(3), (0, 1, 2)))
    data.compress(RLELossless)
    frames = list(generate_frames(data.PixelData, number_of_frames=3))
    del data.PerFrameFunctionalGroupsSequence  # a cine loop: no place for each frame
    data.NumberOfFrames = 65_536
    path = tmp_path / "forged.dcm"
    for has_table in (True, False):
        data.PixelData = encapsulate(frames, has_bot=has_table)
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
        assert path.stat().st_size < 100_000
        with pytest.raises(DataError, match="claims 65536 frames and holds 3 compressed fragments"):
            survey_images(path, Survey())


def test_each_page_of_a_tiff_is_an_image(tmp_path: Path) -> None:
    pages = [Image.fromarray(ramp(4)[place].astype(np.uint8)) for place in range(4)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    plan, found = read(tmp_path / "a.tiff", "1:4")
    assert (plan.kind, plan.total, list(plan.chosen)) == ("pages", 4, [1, 2, 3])
    for index, image in zip(plan.chosen, found, strict=True):
        np.testing.assert_array_equal(image, read_picture(tmp_path / "a.tiff", index).pixels)


def test_a_file_with_one_image_is_read_as_ever(tmp_path: Path) -> None:
    Image.fromarray(ramp(1)[0].astype(np.uint8)).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", SHIPPED / "MR_small.dcm"):
        plan, found = read(path, "3:9")
        assert plan == Plan("image")
        np.testing.assert_array_equal(found[0], read_picture(path).pixels)
