"""The feature cache: features of every augmented view of an image, computed once and stored on disk as float16.

::

    CACHE/<key>/<name>.npy      up to 64 images: their names, and V ... values of each

The key covers everything that the values depend on except the images, and an image is found by its content. Other
folds, cohorts with new images, pooled cohorts and other processes all use the stored values. On a CPU each image is
computed in a batch of its own views, so its values have the same bits in every process. A GPU computes several images
at once; its values are stored under another key.
"""

import hashlib
import os
import random
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.data.cohort import Fold
from cdtl_core.errors import CheckpointError, ModelError
from cdtl_core.models.weights import Weights, weights_hash
from cdtl_core.system.program import num_cores
from cdtl_core.system.progress import report
from cdtl_core.training.device import CPU
from cdtl_core.training.parts import Parts
from cdtl_core.training.views import Views, draw_views

__all__ = ["Compute", "Half", "Kept", "keep", "key_of"]

Half = npt.NDArray[np.float16]
Compute = Callable[[torch.Tensor], torch.Tensor]
"""From the views V C H W in [0, 1] of one image to the stored values, V ...."""
Kept = Callable[[int], Half]
"""From a row of a fold to the stored values of its image, V ..., the plain view first."""
_IMAGES = 64
_KEYS = 8
_MOST = 0.8
_DRAWERS = 4
"""Threads that draw views: more of them wait for the interpreter lock."""
_VIEWS_AT_ONCE = 256
"""Number that keeps a large GPU busy. If its memory is too small for them, they are computed in parts."""


def keep(
    fold: Fold, views: Views, compute: Compute, *, key: str, cache: Path | None, device: torch.device = CPU
) -> Kept:
    """Return the values of `compute` for the images of a fold; values that are not on disk are computed.

    Args:
        fold: The images.
        views: The pool of views of each image.
        compute: Must depend only on what `key` covers.
        key: Name of a folder in `cache`.
        cache: Folder for the values; None: they are computed at each call.
        device: Where `compute` computes.

    Raises:
        CheckpointError: They would take most of the free disk space, or cannot be written.
        ModelError: A value exceeds float16's range.
    """
    if cache is None:
        return lambda row: _values(fold.pixels[fold.rows[row]], views, compute)
    folder, names = _opened(cache / key), fold.image_ids
    row_of = dict(zip(names, fold.rows.tolist(), strict=True))
    found = _found(folder)
    if not found.keys() >= row_of.keys():
        several = _together if device.type == "cuda" else _one_by_one
        _fill(folder, row_of, lambda missing: several([fold.pixels[row_of[name]] for name in missing], views, compute))
        found = _found(folder)
    places = [found[name] for name in names]
    return places.__getitem__


def key_of(weights: Weights, said: str, device: torch.device = CPU) -> str:
    """Return a folder's name from CPU tensors, the kind of device and everything else that the values depend on.

    Args:
        weights: CPU tensors.
        said: Everything else that the values depend on, as text.
        device: Where the values are computed.
    """
    place = "" if device.type == "cpu" else f"/{device.type}"
    return hashlib.sha256(f"{said}{place}/{weights_hash(weights)}".encode()).hexdigest()[:32]


def _values(image: npt.NDArray[np.uint8], views: Views, compute: Compute) -> Half:
    return _half(compute(draw_views(image, views)))


def _one_by_one(images: Sequence[npt.NDArray[np.uint8]], views: Views, compute: Compute) -> Half:
    """Return the values of images, N V ..., each image computed separately."""
    return np.stack([_values(image, views, compute) for image in images])


def _together(images: Sequence[npt.NDArray[np.uint8]], views: Views, compute: Compute) -> Half:
    """Return the values of images, N V ..., several images at once; CPU threads draw the views of the next ones."""
    pool_size, found = 1 + views.count, []
    each, parts = max(1, _VIEWS_AT_ONCE // pool_size), Parts("a frozen network")
    with ThreadPoolExecutor(min(_DRAWERS, num_cores())) as threads:
        pools = threads.map(lambda image: draw_views(image, views), images)
        while batch := list(islice(pools, each)):
            colours = max(pool.shape[1] for pool in batch)
            whole = torch.cat([pool.expand(-1, colours, -1, -1) for pool in batch])
            found += parts.run(len(whole), partial(_in_parts, compute, whole))
    values = np.concatenate(found)
    return values.reshape(len(images), pool_size, *values.shape[1:])


def _in_parts(compute: Compute, views: torch.Tensor, cut: Sequence[slice]) -> list[Half]:
    return [_half(compute(views[part])) for part in cut]


def _half(values: torch.Tensor) -> Half:
    half: Half = values.to("cpu", torch.float16).numpy()
    if not np.isfinite(half).all():
        raise ModelError("a frozen stage gives values that exceed float16's range: set train.views to 0.")
    return half


def _fill(folder: Path, names: Iterable[str], values: Callable[[Sequence[str]], Half]) -> None:
    """Compute missing values, one file at a time; each process uses its own order, so several share the work."""
    everyone = sorted(names)
    parts = [everyone[start : start + _IMAGES] for start in range(0, len(everyone), _IMAGES)]
    random.Random(os.getpid()).shuffle(parts)
    for part in parts:
        found = _found(folder)
        left = sum(name not in found for name in everyone)
        missing = [name for name in part if name not in found]
        if missing:
            first = values(missing[:1])
            _check_room(folder, first.nbytes, left)
            report(kept=len(everyone) - left, of=len(everyone), megabytes=round(first.nbytes * len(everyone) / 1e6, 1))
            _write(folder, missing, np.concatenate([first, values(missing[1:])]) if len(missing) > 1 else first)


def _check_room(folder: Path, each: int, images: int) -> None:
    need, free = each * images / 1e9, shutil.disk_usage(folder).free / 1e9
    if need > _MOST * free:
        raise CheckpointError(
            f"the views of {images} images would take {need:.1f} GB of the {free:.1f} GB free at {folder}: raise "
            "train.freeze, lower the number of views, or make room."
        )


def _write(folder: Path, names: Sequence[str], values: Half) -> None:
    """Write one file atomically; its name depends on its images, so all processes write the same content."""
    file = np.empty(len(names), np.dtype([("image", "S32"), ("values", np.float16, values.shape[1:])]))
    file["image"], file["values"] = [name.encode() for name in names], values
    own = hashlib.sha256("".join(names).encode()).hexdigest()[:32]
    draft = folder / f".{own}.{os.getpid()}.draft"
    try:
        with open(draft, "wb") as opened:
            np.save(opened, file)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(draft, folder / f"{own}.npy")
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror}): check its permissions and the free space."
        ) from None


def _found(folder: Path) -> dict[str, Half]:
    """Return image names and values of all files in a folder; a damaged file is removed and computed again."""
    found: dict[str, Half] = {}
    for path in folder.glob("[!.]*.npy"):
        try:
            found.update(_mapped(path))
        except (OSError, ValueError, IndexError):
            path.unlink(missing_ok=True)
    return found


@lru_cache(maxsize=4096)
def _mapped(path: Path) -> dict[str, Half]:
    file = np.load(path, mmap_mode="r", allow_pickle=False)
    values: Half = np.asarray(file["values"])
    return {name.decode(): values[row] for row, name in enumerate(file["image"].tolist())}


def _opened(folder: Path) -> Path:
    """Return the folder, created if needed; of the other folders only the most recently used ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    keys = [other for other in folder.parent.iterdir() if re.fullmatch("[0-9a-f]{32}", other.name)]
    for old in sorted(keys, key=lambda other: other.stat().st_mtime, reverse=True)[_KEYS:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder
