"""Decoded images of a cohort in one memory-mapped uint8 file on the site's disk."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from cdtl_core.data.box import Square, cut
from cdtl_core.data.decode import INTAKE_VERSION
from cdtl_core.data.decode.formats import series_files
from cdtl_core.data.decode.plan import Plan, Survey
from cdtl_core.data.decode.read import fit_square, read_images, read_picture, survey_images
from cdtl_core.data.frame import Frame, Slices
from cdtl_core.errors import DataError
from cdtl_core.system.durable import file_hash, replace_json, unwritable
from cdtl_core.system.program import num_cores
from cdtl_core.system.progress import report

__all__ = ["Ints", "PixelFile", "Pixels", "content_id", "load_pixels", "one_channel"]

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
_BLOCK = 256  # images that are copied at a time


@dataclass(frozen=True)
class PixelFile:
    """A cohort's decoded images.

    Attributes:
        array: N C size size, memory-mapped; C = 1 if all are gray, else 3.
        bits: Most bits per sample among the source files.
        counts: Number of images of each file, in the order of the files; they stand in `array` one after the other.
        gaps: What is missing in series, or was not read of their folders; a few words for each.
    """

    array: Pixels
    bits: int
    counts: Ints
    gaps: tuple[str, ...] = ()


def load_pixels(
    files: Sequence[Path],
    *,
    size: int,
    folder: Path,
    squares: Sequence[Square | None] = (),
    frame: Frame = "middle",
    strict: bool = False,
    workers: int = 0,
    slices: Slices | None = None,
    tile_um: float = 1.0,
) -> PixelFile:
    """Return the images of `files` as one memory-mapped array.

    The first call decodes them in parallel into `folder`, one image of each file in memory at a time. Later calls map
    the same file while all of these are unchanged: the paths, sizes and times of the files (with `strict` their
    contents), the squares, the frame or the slices, the image size and the intake version.

    Args:
        files: Image files; also folders of DICOM series.
        size: Side of the square images in pixels.
        folder: Folder for decoded images.
        squares: The square to cut out of each image; empty: whole images.
        frame: Which frame of a file with several, if each file gives one image.
        strict: Compare file contents instead of size and time.
        workers: Number of processes; 0: one per core.
        slices: Which images of a file with several, if a file gives several; None: each file gives one.
        tile_um: Micrometres per pixel of a whole slide's tiles; 0: its finest level as it is.

    Raises:
        DataError: A file is missing or cannot be decoded, or a square lies outside its image.
        CheckpointError: The disk is full or read-only.
    """
    parts = tuple(squares) if any(squares) else (None,) * len(files)
    asked = None if slices is None else Survey(slices, size, tile_um)
    settings = f"{INTAKE_VERSION}/{size}/{frame}" + (f"/{parts}" if any(squares) else "")
    key = _key(files, settings + (f"/{slices}/{tile_um}" if asked else ""), strict)
    data, note = folder / f"{key}.npy", folder / f"{key}.json"
    if not note.exists():
        jobs = _jobs(files, parts, asked, workers or num_cores())
        bits = _decode(jobs, size, frame, data, workers or num_cores())
        told: dict[str, Any] = {"images": len(files), "size": size, "intake": INTAKE_VERSION, "bits": bits}
        gaps = [gap for job in jobs if job.plan for gap in job.plan.gaps]
        told |= {"counts": [job.count for job in jobs], "gaps": gaps} if asked else {}
        replace_json(note, told)
    found: Pixels = np.load(data, mmap_mode="r", allow_pickle=False)
    told = json.loads(note.read_text(encoding="utf-8"))
    counts = np.array(told.get("counts", [1] * len(files)), np.int64)
    return PixelFile(found, int(told["bits"]), counts, tuple(told.get("gaps", ())))


def one_channel(image: Pixels) -> Pixels:
    """An image C H W; 1 H W of it where all its channels are equal."""
    return image[:1] if (image == image[:1]).all() else image


def content_id(image: Pixels) -> str:
    """32 hex digits that name an image C H W by its content; a gray image has the name of its one channel."""
    content = np.ascontiguousarray(one_channel(image))
    return hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()[:32]


def _key(files: Sequence[Path], settings: str, strict: bool) -> str:
    digest = hashlib.sha256(settings.encode())
    for file in files:
        try:
            state = _state(file, strict)
        except (OSError, ValueError):
            raise DataError(f"the image {file} does not exist: correct the manifest or restore the file.") from None
        digest.update(f"\n{file.absolute()}/{state}".encode())
    return digest.hexdigest()[:24]


def _state(file: Path, strict: bool) -> str:
    if file.is_dir():
        return "".join(f"/{child.name}/{_state(child, strict)}" for child in series_files(file))
    stat = file.stat()
    return file_hash(file) if strict else f"{stat.st_size}/{stat.st_mtime_ns}"


@dataclass(frozen=True)
class _Job:
    """One file to decode; its images begin at row `start`. Without a plan it gives one image."""

    file: Path
    square: Square | None
    plan: Plan | None
    start: int

    @property
    def count(self) -> int:
        return self.plan.count if self.plan else 1


def _jobs(
    files: Sequence[Path], squares: Sequence[Square | None], asked: Survey | None, workers: int
) -> tuple[_Job, ...]:
    """Return the files with the number of images of each, found in their headers.

    Args:
        files: The files.
        squares: The square to cut out of each, if any.
        asked: Which of their images are used; None: one of each.
        workers: Number of threads.
    """
    plans: list[Plan | None] = [None] * len(files)
    if asked is not None:
        with ThreadPoolExecutor(workers) as pool:
            plans = list(pool.map(lambda file: survey_images(file, asked), files))
    for file, square, plan in zip(files, squares, plans, strict=True):
        if square and plan and plan.kind not in {"image", "pages", "frames"}:
            raise DataError(
                f"data.box cuts lesions out of flat images, and {file} is a volume or a slide: leave data.box out."
            )
    starts = np.cumsum([0, *(plan.count if plan else 1 for plan in plans)]).tolist()
    return tuple(_Job(*one) for one in zip(files, squares, plans, starts[:-1], strict=True))


def _decode(jobs: Sequence[_Job], size: int, frame: Frame, target: Path, workers: int) -> int:
    """Write the array; return the most bits per sample of any file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob("*.draft"):
        if not psutil.pid_exists(int(left.name.split(".")[1])):  # left by a killed process
            left.unlink(missing_ok=True)
    draft, slim = (target.with_suffix(f".{os.getpid()}.{part}.draft") for part in ("all", "gray"))
    total = sum(job.count for job in jobs)
    try:
        array = _mapped(draft, (total, 3, size, size))
        is_gray, bits = True, 1
        with ThreadPoolExecutor(workers) as pool:
            for job, (gray, depth) in zip(jobs, pool.map(lambda job: _fill(array, job, frame), jobs), strict=True):
                is_gray &= gray
                bits = max(bits, depth)
                report(decoded=job.start + job.count, of=total)
        array.flush()
        if is_gray:
            only = _mapped(slim, (total, 1, size, size))
            for start in range(0, total, _BLOCK):
                only[start : start + _BLOCK] = array[start : start + _BLOCK, :1]
            only.flush()
        os.replace(slim if is_gray else draft, target)
        return bits
    except OSError as error:
        raise unwritable(target, error) from None
    finally:
        for left in (draft, slim):
            with suppress(OSError):
                left.unlink(missing_ok=True)


def _mapped(path: Path, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """Create an array in a file and reserve its space: a write to a mapped file on a full disk kills the process."""
    array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):  # macOS lacks it
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _fill(array: Pixels, job: _Job, frame: Frame) -> tuple[bool, int]:
    """Write the images of a file to their rows; return whether all are gray, and the most bits per sample."""
    is_gray, bits = True, 1
    pictures = read_images(job.file, job.plan) if job.plan else iter([read_picture(job.file, frame)])
    for row, picture in enumerate(pictures, start=job.start):
        pixels = cut(picture.pixels, job.square) if job.square else picture.pixels
        square = fit_square(pixels, array.shape[-1])
        array[row] = square if square.ndim == 2 else square.transpose(2, 0, 1)
        is_gray &= square.ndim == 2
        bits = max(bits, picture.bits)
    return is_gray, bits
