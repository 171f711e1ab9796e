"""NIfTI volumes: slices as a DICOM series shows them, in the order of the patient's axes."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cdtl_core.data.decode.dicom.gray import Look
from cdtl_core.data.decode.picture import Picture
from cdtl_core.data.decode.plan import Plan
from cdtl_core.data.decode.volume.geometry import PLANES
from cdtl_core.data.decode.volume.stack import Stored, check_pixel, volume_pictures
from cdtl_core.data.fault import UnreadableError
from cdtl_core.data.frame import Slices
from cdtl_core.errors import DataError

__all__ = ["nifti_pictures", "survey_nifti"]

_LARGEST_BYTES = 1 << 30  # a compressed volume is unpacked into memory: 512 slices of 512 x 512 floats are half of it
_MOST_SLICES = 1 << 16
_PACKED = 1100  # times its size; deflate reaches 1032
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
_THICKER = 1.2  # times the next spacing: slices lie along that axis
_SCANNER = "export it again with the scanner's geometry, or convert it from DICOM"


@dataclass(frozen=True)
class _Volume:
    """What a header says.

    Attributes:
        shape: Numbers of voxels.
        dtype: Type of the stored values.
        offset: Place of the first value in the (unpacked) file.
        slope: Factor of the values.
        intercept: Added to them.
        axes: For right-left, front-back and feet-head: the file's axis.
        flips: Whether that axis runs the other way.
        spacing_mm: Along these axes.
        across: Which of these the slices are counted along.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    spacing_mm: tuple[float, ...]
    across: int

    @property
    def total(self) -> int:
        """Number of slices."""
        return self.shape[self.axes[self.across]]

    @property
    def num_bytes(self) -> int:
        """Bytes of all values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def survey_nifti(path: Path, slices: Slices) -> Plan:
    """Read the header of a NIfTI file.

    Slices are counted along the axis of the largest spacing; in a volume of about equal spacings from feet to head.

    Raises:
        UnreadableError: It is no volume of gray values, has no affine, or claims more than it holds.
        DataError: nibabel is not installed.
    """
    with _opened(path) as file:
        volume = _read_header(file)
        _check_whole(path, file, volume)
    rows, columns = [volume.spacing_mm[axis] for axis in _plane(volume.across)]
    return Plan(
        "nifti",
        volume.total,
        slices.choose(volume.total),
        pixel_mm=check_pixel(rows, columns),
        spacing_mm=volume.spacing_mm[volume.across],
        plane=PLANES[volume.across],
    )


def nifti_pictures(path: Path, plan: Plan, start: int) -> Iterator[Picture]:
    """Yield the chosen slices of a NIfTI volume, each with its neighbours.

    Raises:
        UnreadableError: It is truncated or too large.
    """
    with _opened(path) as file:
        volume = _read_header(file)
        values = _values(path, file, volume)
    for axis, flip in enumerate(volume.flips):
        if flip:
            values = np.flip(values, axis)
    rows, columns = _plane(volume.across)
    planes = values.transpose(volume.across, rows, columns)
    planes = planes[:, ::-1] if rows == 2 else planes  # the head is up
    look = Look(lambda stored: stored * volume.slope + volume.intercept, None, None, None, inverted=False)
    bits = volume.dtype.itemsize * 8

    def source(index: int) -> Stored:
        return Stored(np.ascontiguousarray(planes[index], volume.dtype.newbyteorder("=")), look, bits, None)

    yield from volume_pictures(plan, source, start, "NIfTI")


def _opened(path: Path) -> BinaryIO:
    with open(path, "rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_packed else open(path, "rb")  # type: ignore[return-value]  # GzipFile reads and seeks


def _plane(across: int) -> tuple[int, int]:
    """Return the patient's axes of a slice's rows and columns: 0 right-left, 1 front-back, 2 feet-head."""
    return {0: (2, 1), 1: (2, 0), 2: (1, 0)}[across]


def _read_header(file: BinaryIO) -> _Volume:
    try:
        from nibabel import Nifti1Header, Nifti2Header
        from nibabel.orientations import io_orientation
    except ImportError:
        raise DataError(
            "NIfTI volumes need the package nibabel, which is not installed: pip install 'cdtl[nifti]'."
        ) from None
    kind = Nifti2Header if file.read(8)[4:7] == b"n+2" else Nifti1Header
    file.seek(0)
    header = kind(file.read(kind.template_dtype.itemsize))
    shape = _shape(header.get_data_shape())
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnreadableError("holds colours or complex numbers", "export it as gray values")
    if not (int(header["qform_code"]) or int(header["sform_code"])):
        raise UnreadableError("has no affine, so its directions and spacing are not known", _SCANNER)
    affine = header.get_best_affine()
    directions = io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if np.isnan(directions).any():
        raise UnreadableError("has an affine that gives no directions", _SCANNER)
    axes = tuple(int(np.flatnonzero(directions[:, 0] == world)[0]) for world in range(3))
    toward = [directions[axis, 1] > 0 for axis in axes]  # to the right, the front, the head
    scale = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    spacing = tuple(float(np.linalg.norm(affine[:3, axis])) * scale for axis in axes)
    slope, intercept = header.get_slope_inter()
    return _Volume(
        shape,
        dtype,
        max(int(header.get_data_offset()), kind.single_vox_offset),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        axes,
        (toward[0], toward[1], not toward[2]),
        spacing,
        _across(shape, axes, spacing),
    )


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the three dimensions of a volume; of a plane, one slice."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape = (*shape, *[1] * (3 - len(shape)))
    if len(shape) > 3:
        raise UnreadableError(
            f"holds {int(np.prod(shape[3:]))} volumes (times, echoes or directions)", "save the wanted one as a file"
        )
    if min(shape) < 1:
        raise UnreadableError("holds no image (a dimension is 0)", _SCANNER)
    return shape


def _across(shape: tuple[int, ...], axes: tuple[int, ...], spacing: tuple[float, ...]) -> int:
    if 1 in shape:
        return axes.index(shape.index(1))
    thickest, second = sorted(range(3), key=lambda axis: -spacing[axis])[:2]
    return thickest if spacing[thickest] > _THICKER * spacing[second] else 2


def _check_whole(path: Path, file: BinaryIO, volume: _Volume) -> None:
    """Refuse a file whose header claims more than it can hold, before memory or disk is taken for its slices."""
    is_packed = isinstance(file, gzip.GzipFile)
    if is_packed and volume.num_bytes > _LARGEST_BYTES:
        raise UnreadableError(
            f"unpacks to {volume.num_bytes / 1e6:.0f} MB, more than {_LARGEST_BYTES / 1e6:.0f} MB",
            "store it as .nii without gzip, or with fewer bits",
        )
    if path.stat().st_size * (_PACKED if is_packed else 1) < volume.offset + volume.num_bytes:
        raise UnreadableError("is truncated (its values end before the volume does)")
    if volume.total > _MOST_SLICES:
        raise UnreadableError(f"claims {volume.total} slices, where {_MOST_SLICES} is the most")


def _values(path: Path, file: BinaryIO, volume: _Volume) -> npt.NDArray[Any]:
    """Return the values by the patient's axes: mapped from the file, or unpacked once if it is compressed."""
    _check_whole(path, file, volume)
    if isinstance(file, gzip.GzipFile):
        file.seek(volume.offset)
        content = file.read(volume.num_bytes)
        if len(content) < volume.num_bytes:
            raise UnreadableError("is truncated (its values end before the volume does)")
        flat = np.frombuffer(content, volume.dtype)
    else:
        flat = np.memmap(path, volume.dtype, "r", volume.offset, (volume.num_bytes // volume.dtype.itemsize,))
    return flat.reshape(volume.shape, order="F").transpose(volume.axes)
