"""Features of a frozen backbone, computed once for each image and augmented view, and kept on disk.

What is kept is float16: a feature of unit length loses less than a thousandth.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.config import AugmentConfig
from cdtl_core.durable import replace_bytes
from cdtl_core.imaging.cohort import Fold
from cdtl_core.imaging.transforms import Augmentation, augment, normalise, to_unit
from cdtl_core.learning.model import Classifier
from cdtl_core.learning.weights import take, weights_hash
from cdtl_core.progress import report

__all__ = ["Features", "feature_views"]

Features = npt.NDArray[np.float16]
_BATCH = 64
_KEPT = 16


def feature_views(
    model: Classifier,
    fold: Fold,
    *,
    views: int,
    change: AugmentConfig,
    seed: int,
    device: torch.device,
    cache: Path | None = None,
) -> Features:
    """Features N V D of a fold's images, in its order: the image as it is, then `views` changed ones.

    Args:
        model: Its backbone is run as it is; a backbone that is trained would make what is kept untrue.
        fold: The images.
        views: Changed views beside the plain one, V - 1.
        change: How a view is changed.
        seed: Of the changes.
        device: Where to compute.
        cache: Folder to keep them in; none: they are not kept.
    """
    key = _key(model, fold, f"{views}/{change.model_dump_json()}/{seed}")
    path = cache / f"{key}.npy" if cache else None
    if path and path.exists():
        path.touch()
        return np.asarray(np.load(path), np.float16)
    found = np.stack([_view(model, fold, view, change, seed, device) for view in range(1 + views)], axis=1)
    if path:
        _keep(path, found)
    return found


def _view(model: Classifier, fold: Fold, view: int, change: AugmentConfig, seed: int, device: torch.device) -> Features:
    model.to(device).eval()
    rng = torch.Generator().manual_seed(seed * 1000 + view)
    parts = []
    for start in range(0, fold.num_images, _BATCH):
        report(step=start, steps=fold.num_images)
        images = to_unit(fold.pixels[fold.rows[start : start + _BATCH]])
        if view:
            images = augment(images, Augmentation(**change.model_dump()), rng)
        batch = normalise(images, model.mean, model.std).to(device, memory_format=torch.channels_last)
        with torch.inference_mode():
            parts.append(model.features(batch).to("cpu", torch.float16).numpy())
    return np.concatenate(parts)


def _key(model: Classifier, fold: Fold, settings: str) -> str:
    """Of everything the features depend on: backbone, levels, the images' bytes and order, the views."""
    names = [name for name, value in model.state_dict().items() if name.startswith("backbone.") and value.ndim]
    digest = hashlib.sha256(f"{weights_hash(take(model, names))}/{model.levels}/{settings}".encode())
    for row in fold.rows:
        digest.update(np.ascontiguousarray(fold.pixels[row]).data)
    return digest.hexdigest()[:32]


def _keep(path: Path, found: Features) -> None:
    """Write what was found; the few newest files are kept."""
    file = io.BytesIO()
    np.save(file, found)
    replace_bytes(path, file.getvalue())
    newest = sorted(path.parent.glob("*.npy"), key=lambda other: other.stat().st_mtime, reverse=True)
    for old in newest[_KEPT:]:
        old.unlink(missing_ok=True)
