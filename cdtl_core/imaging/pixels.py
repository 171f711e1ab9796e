"""A cohort's images, decoded once into one file of uint8 on the site's disk and read through memory mapping."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cdtl_core.durable import replace_json
from cdtl_core.errors import DataError
from cdtl_core.imaging.read import fit_square, read_image
from cdtl_core.progress import report
from cdtl_core.threads import num_cores

__all__ = ["INTAKE_VERSION", "Pixels", "load_pixels"]

INTAKE_VERSION = 1
Pixels = npt.NDArray[np.uint8]


def load_pixels(files: Sequence[Path], *, size: int, folder: Path, workers: int | None = None) -> Pixels:
    """The images of `files` as one memory-mapped array, N C size size with C = 1 if all are gray, else 3.

    The first call decodes them in parallel into `folder`; later ones map the same file as long as the paths, sizes and
    modification times of the files, the image size and the intake version are unchanged.

    Raises:
        DataError: A file is missing or cannot be decoded.
    """
    key = _key(files, size)
    data, note = folder / f"{key}.npy", folder / f"{key}.json"
    if not note.exists():
        _decode(files, size, data, workers or num_cores())
        replace_json(note, {"images": len(files), "size": size, "intake": INTAKE_VERSION})
    pixels: Pixels = np.load(data, mmap_mode="r", allow_pickle=False)
    return pixels


def _key(files: Sequence[Path], size: int) -> str:
    digest = hashlib.sha256(f"{INTAKE_VERSION}/{size}".encode())
    for file in files:
        try:
            stat = file.stat()
        except (OSError, ValueError):
            raise DataError(f"the image {file} does not exist: correct the manifest or restore the file.") from None
        digest.update(f"\n{file.absolute()}/{stat.st_size}/{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _decode(files: Sequence[Path], size: int, target: Path, workers: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob("*.draft"):  # of a killed process
        left.unlink()
    draft = target.with_suffix(".draft")
    try:
        array = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=(len(files), 3, size, size))
        is_gray = True
        with ThreadPoolExecutor(workers) as pool:
            squares = pool.map(lambda file: fit_square(read_image(file), size), files)
            for index, square in enumerate(squares):
                is_gray &= square.ndim == 2
                array[index] = square if square.ndim == 2 else square.transpose(2, 0, 1)
                report(decoded=index + 1, of=len(files))
        array.flush()
        if is_gray:
            np.save(target, array[:, :1], allow_pickle=False)
        else:
            os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
