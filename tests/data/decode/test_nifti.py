"""NIfTI volumes: the slices of a DICOM series of the same patient, however the file stores them."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdtl_core.data.decode import reader
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.read import read_images, read_picture, survey_images
from cdtl_core.data.frame import Slices
from cdtl_core.errors import DataError
from tests.data.volumes import ramp, read_or_refused, write_series

nib = pytest.importorskip("nibabel", reason="nibabel is not installed: pip install 'cdtl[nifti]'")


def read(path: Path, slices: str = "all") -> tuple[Plan, list[np.ndarray]]:
    plan = survey_images(path, Survey(Slices.parse(slices)))
    return plan, [picture.pixels for picture in read_images(path, plan)]


def save(path: Path, volume: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...], step: float = 5.0) -> Path:
    """Write D H W, from the feet up, from front to back, from right to left, with its axes in another order and sense.

    Args:
        path: The file.
        volume: As a DICOM series has it.
        order: Which of right-left, front-back and feet-head each axis of the file is.
        flips: Whether that axis runs the other way.
        step: Distance of slices.
    """
    values = volume.transpose(2, 1, 0).transpose(order)
    affine, spacing = np.zeros((4, 4)), np.array([1.0, 1.0, step])
    affine[3, 3] = 1
    for axis, (world, flip) in enumerate(zip(order, flips, strict=True)):
        sense = (-1 if world < 2 else 1) * (-1 if flip else 1)  # NIfTI counts to the left and to the back downwards
        affine[world, axis] = sense * spacing[world]
        values = np.flip(values, axis) if flip else values
    nib.save(nib.Nifti1Image(np.ascontiguousarray(values), affine), path)
    return path


@given(st.permutations(range(3)), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.booleans())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_storage_order_gives_the_slices_of_the_series(
    tmp_path: Path, order: list[int], flips: tuple[bool, ...], packed: bool
) -> None:
    if not (tmp_path / "series").exists():
        write_series(tmp_path / "series", ramp(5))
    _, expected = read(tmp_path / "series")
    path = save(tmp_path / f"v.nii{'.gz' * packed}", ramp(5), tuple(order), flips)
    plan, found = read(path)
    assert (plan.kind, plan.total, plan.spacing_mm) == ("nifti", 5, 5.0)
    np.testing.assert_array_equal(found, expected)


def test_a_chosen_slice_has_its_neighbours_and_one_slice_is_the_middle(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii.gz", ramp(9), (0, 1, 2), (False, True, False))
    _, every = read(path)
    np.testing.assert_array_equal(read(path, "2:8:3")[1], [every[2], every[5]])
    np.testing.assert_array_equal(read_picture(path).pixels, every[4])


def test_slices_are_cut_along_the_largest_spacing_with_the_head_up(tmp_path: Path) -> None:
    values = np.zeros((4, 10, 6), np.int16)  # right-left, front-back, feet-head
    values[:, :, 5] = 900
    nib.save(nib.Nifti1Image(values, np.diag([-4.0, -1.0, 2.0, 1.0])), tmp_path / "v.nii")
    plan, found = read(tmp_path / "v.nii")
    assert (plan.total, plan.spacing_mm) == (4, 4.0)
    assert found[0].shape == (12, 10, 3)  # 6 rows of 2 mm as squares of 1 mm
    assert found[0][0].min() > 200
    assert found[0][-1].max() == 0


def test_hounsfield_units_are_shown_as_soft_tissue_and_other_values_by_percentiles(tmp_path: Path) -> None:
    row = np.array([-1000, -160, 40, 239, 1000], np.float32).reshape(5, 1, 1)
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    nib.save(nib.Nifti1Image(row, affine), tmp_path / "ct.nii")
    assert read(tmp_path / "ct.nii")[1][0][0, :, 1].tolist() == [0, 0, 128, 255, 255]
    nib.save(nib.Nifti1Image(row / 1000, affine), tmp_path / "mr.nii")
    shown = read(tmp_path / "mr.nii")[1][0][0, :, 1].tolist()
    assert shown == sorted(shown)
    assert len(set(shown)) == 5


def test_scaled_and_big_endian_values_are_those_that_they_stand_for(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii", ramp(3), (0, 1, 2), (False, False, False))
    _, expected = read(path)
    image = nib.load(path)
    big = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, nib.Nifti1Header(endianness=">"))
    big.header.set_data_dtype(">i2")
    nib.save(big, tmp_path / "big.nii")
    np.testing.assert_array_equal(read(tmp_path / "big.nii")[1], expected)
    nib.save(nib.Nifti2Image(np.asarray(image.dataobj), image.affine), tmp_path / "two.nii")
    np.testing.assert_array_equal(read(tmp_path / "two.nii")[1], expected)


def _without_affine(path: Path, image: Any) -> None:
    image.header["sform_code"] = image.header["qform_code"] = 0
    path.write_bytes(image.header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes(order="F"))


def _truncated(path: Path, image: Any) -> None:
    nib.save(image, path)
    path.write_bytes(path.read_bytes()[:-40])


def _packed_and_truncated(path: Path, image: Any) -> None:
    _truncated(path, image)
    path.write_bytes(gzip.compress(path.read_bytes()))


def _of_no_type(path: Path, image: Any) -> None:
    header = bytearray(image.header.binaryblock)
    header[70:72] = (999).to_bytes(2, "little")
    path.write_bytes(header + b"\0" * 1000)


def _of_kind(values: np.ndarray) -> Any:
    return lambda path, image: nib.save(nib.Nifti1Image(values, image.affine), path)


COLOUR = np.zeros((4, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (_without_affine, "has no affine, so .* not known: export it again with the scanner's geometry"),
        (_truncated, "is truncated"),
        (_packed_and_truncated, "is truncated"),
        (_of_kind(np.zeros((4, 4, 3, 7), np.int16)), "holds 7 volumes .*: save the wanted one"),
        (_of_kind(COLOUR), "holds colours or complex numbers: export it as gray values"),
        (_of_kind(np.zeros((4, 4, 3), np.complex64)), "holds colours or complex numbers"),
        (_of_no_type, "is damaged or no valid NIfTI"),
    ],
)
def test_a_fault_is_a_sentence_that_names_the_file_and_what_to_do(tmp_path: Path, write: Any, says: str) -> None:
    save(tmp_path / "good.nii", ramp(3), (0, 1, 2), (False, False, False))
    write(tmp_path / "exam.nii", nib.load(tmp_path / "good.nii"))
    with pytest.raises(DataError, match=says) as error:
        read(tmp_path / "exam.nii")
    assert str(error.value).startswith(f"the image {tmp_path / 'exam.nii'} ")


def test_a_small_compressed_file_that_claims_a_large_volume_takes_no_memory(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.float64)
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 4000))
    with pytest.raises(DataError, match=r"unpacks to 64000 MB.*without gzip"):
        read(tmp_path / "v.nii.gz")


@pytest.mark.parametrize("packed", [False, True])
def test_slices_that_a_header_claims_and_the_file_lacks_take_no_disk(tmp_path: Path, packed: bool) -> None:
    """The survey tells how much disk the decoded images need: 15 GB for a claim of 100,000 slices."""
    header = nib.Nifti1Header()
    header.set_data_shape((100, 100, 30000))
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    path, content = tmp_path / "v.nii", header.binaryblock + b"\0" * 4000
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match="is truncated"):
        survey_images(path, Survey())
    nib.save(nib.Nifti2Image(np.zeros((2, 2, 100_000), np.uint8), np.eye(4)), path)
    with pytest.raises(DataError, match="claims 100000 slices, where 65536 is the most"):
        survey_images(path, Survey())


def test_without_nibabel_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "v.nii", ramp(3), (0, 1, 2), (False, False, False))
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "nibabel.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path / "hidden"))
    monkeypatch.setattr(reader, "_idle", [])
    with pytest.raises(DataError, match=r"need the package nibabel.*pip install 'cdtl\[nifti\]'"):
        read(path)
    for process in reader._idle:
        reader._end(process)


@pytest.mark.integration
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_volume_is_read_or_refused_in_a_sentence(
    tmp_path: Path, packed: bool, flips: list[tuple[int, int]]
) -> None:
    path = tmp_path / "v.nii"
    content = bytearray(save(path, ramp(3), (0, 1, 2), (False, False, False)).read_bytes())
    for place, value in flips:
        content[place % 400] = value
    path.write_bytes(gzip.compress(content) if packed else content)
    read_or_refused(path, lambda: read(path)[1])
