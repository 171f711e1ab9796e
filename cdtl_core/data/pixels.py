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
from cdtl_core.data.decode.read import fit_square, read_picture
from cdtl_core.data.frame import Frame
from cdtl_core.errors import DataError
from cdtl_core.system.durable import file_hash, replace_json, unwritable
from cdtl_core.system.progress import report
from cdtl_core.system.threads import num_cores

__all__ = ["Ints", "PixelFile", "Pixels", "content_id", "load_pixels", "one_channel"]

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PixelFile:
    """A cohort's decoded images.

    Attributes:
        array: N C size size, memory-mapped; C = 1 if all are gray, else 3.
        bits: Most bits per sample among the source files.
        counts: Number of images of each file, in the order of the files; they stand in `array` one after the other.
    """

    array: Pixels
    bits: int
    counts: Ints


def load_pixels(
    files: Sequence[Path],
    *,
    size: int,
    folder: Path,
    squares: Sequence[Square | None] = (),
    frame: Frame = "middle",
    strict: bool = False,
    workers: int = 0,
) -> PixelFile:
    """Return the images of `files` as one memory-mapped array.

    The first call decodes them in parallel into `folder`. Later calls map the same file while all of these are
    unchanged: the paths, sizes and times of the files (with `strict` their contents), the squares, the frame, the image
    size and the intake version.

    Args:
        files: Image files.
        size: Side of the square images in pixels.
        folder: Folder for decoded images.
        squares: The square to cut out of each image; empty: whole images.
        frame: Which frame of a file with several.
        strict: Compare file contents instead of size and time.
        workers: Number of processes; None: one per core.

    Raises:
        DataError: A file is missing or cannot be decoded, or a square lies outside its image.
        CheckpointError: The disk is full or read-only.
    """
    parts = tuple(squares) if any(squares) else (None,) * len(files)
    key = _key(files, f"{INTAKE_VERSION}/{size}/{frame}" + (f"/{parts}" if any(squares) else ""), strict)
    data, note = folder / f"{key}.npy", folder / f"{key}.json"
    if not note.exists():
        bits = _decode(list(zip(files, parts, strict=True)), size, frame, data, workers or num_cores())
        replace_json(note, {"images": len(files), "size": size, "intake": INTAKE_VERSION, "bits": bits})
    found: Pixels = np.load(data, mmap_mode="r", allow_pickle=False)
    bits = int(json.loads(note.read_text(encoding="utf-8"))["bits"])
    return PixelFile(found, bits, np.ones(len(files), np.int64))


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
            stat = file.stat()
            state = file_hash(file) if strict else f"{stat.st_size}/{stat.st_mtime_ns}"
        except (OSError, ValueError):
            raise DataError(f"the image {file} does not exist: correct the manifest or restore the file.") from None
        digest.update(f"\n{file.absolute()}/{state}".encode())
    return digest.hexdigest()[:24]


def _decode(files: Sequence[tuple[Path, Square | None]], size: int, frame: Frame, target: Path, workers: int) -> int:
    """Write the array; return the most bits per sample of any file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob("*.draft"):
        if not psutil.pid_exists(int(left.name.split(".")[1])):  # left by a killed process
            left.unlink(missing_ok=True)
    draft, slim = (target.with_suffix(f".{os.getpid()}.{part}.draft") for part in ("all", "gray"))
    try:
        array = _mapped(draft, (len(files), 3, size, size))
        is_gray, bits = True, 1
        with ThreadPoolExecutor(workers) as pool:
            for index, (square, depth) in enumerate(pool.map(lambda one: _square(one[0], one[1], size, frame), files)):
                is_gray &= square.ndim == 2
                bits = max(bits, depth)
                array[index] = square if square.ndim == 2 else square.transpose(2, 0, 1)
                report(decoded=index + 1, of=len(files))
        array.flush()
        if is_gray:
            gray = _mapped(slim, (len(files), 1, size, size))
            gray[:] = array[:, :1]
            gray.flush()
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


def _square(file: Path, square: Square | None, size: int, frame: Frame) -> tuple[Pixels, int]:
    picture = read_picture(file, frame)
    return fit_square(cut(picture.pixels, square) if square else picture.pixels, size), picture.bits
