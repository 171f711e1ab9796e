"""What a network is given of a fold's images: the images, or what its frozen stages say of a fixed pool of views.

Every `Inputs` is a function of rows; where the network then goes on is `Classifier.entry`, set by `entering`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.config import AugmentConfig, RunConfig
from cdtl_core.imaging.cohort import Fold
from cdtl_core.imaging.transforms import Augmentation, augment, normalise, to_unit
from cdtl_core.learning.kept import Kept, keep, key_of
from cdtl_core.learning.model import Classifier
from cdtl_core.learning.stages import run_stages, stages_of, tensors_of_stages
from cdtl_core.learning.views import Views

__all__ = ["Entry", "Inputs", "Ints", "changed_inputs", "entering", "entry_of", "plain_inputs", "random_view"]

Ints = npt.NDArray[np.int64]
Inputs = Callable[[Ints], torch.Tensor]
"""Rows B of a fold to what a module is given, B ..., on the CPU; may draw a changed view."""


@dataclass(frozen=True)
class Entry:
    """Where images enter a network: behind its frozen stages, as a fixed pool of views.

    Attributes:
        stages: How many are frozen, 1 or more.
        views: The pool of each image.
        cache: Folder for what the frozen stages say; none: it is computed whenever it is asked for.
    """

    stages: int
    views: Views
    cache: Path | None = None


def entry_of(config: RunConfig, cache: Path | None) -> Entry | None:
    """Where images enter in a run; None: at the network's beginning, changed anew at each step."""
    train = config.train
    if config.dp.enabled or not train.views:
        return None
    return Entry(train.freeze, Views(train.views, train.views_seed, train.augment), cache)


@contextmanager
def entering(model: Classifier, entry: Entry | None) -> Iterator[None]:
    """Inside the block the network takes the inputs of `entry`."""
    model.entry = entry.stages if entry else 0
    try:
        yield
    finally:
        model.entry = 0


def plain_inputs(model: Classifier, fold: Fold, entry: Entry | None = None) -> Inputs:
    """The images as they are, normalised for the model, or the plain views' activations.

    Raises:
        CheckpointError, ModelError: As `keep`.
    """
    if entry is None:
        return lambda rows: normalise(to_unit(fold.pixels[fold.rows[rows]]), model.mean, model.std)
    kept = _activations(model, fold, entry)
    return lambda rows: _stacked([kept(row)[0] for row in rows.tolist()])


def changed_inputs(
    model: Classifier, fold: Fold, change: AugmentConfig, rng: np.random.Generator, entry: Entry | None = None
) -> Inputs:
    """The images, each changed anew whenever it is asked for, or the activations of a random view of its pool.

    Raises:
        CheckpointError, ModelError: As `keep`.
    """
    if entry is not None:
        return random_view(_activations(model, fold, entry), 1 + entry.views.count, rng)
    changes = Augmentation(**change.model_dump())
    images_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def inputs(rows: Ints) -> torch.Tensor:
        images = augment(to_unit(fold.pixels[fold.rows[rows]]), changes, images_rng)
        return normalise(images, model.mean, model.std)

    return inputs


def random_view(kept: Kept, num_views: int, rng: np.random.Generator) -> Inputs:
    """What was kept of one of the V views of each row, drawn anew whenever it is asked for."""

    def inputs(rows: Ints) -> torch.Tensor:
        views = rng.integers(num_views, size=len(rows))
        return _stacked([kept(row)[view] for row, view in zip(rows.tolist(), views.tolist(), strict=True)])

    return inputs


def _activations(model: Classifier, fold: Fold, entry: Entry) -> Kept:
    """What the first stages say of each image's pool, V ...; they must have the weights now that they keep."""
    frozen = tensors_of_stages(model.backbone, entry.stages)
    state = model.state_dict()
    names = [name for name in frozen if state[name].is_floating_point()]
    modules = [module for stage in stages_of(model.backbone)[: entry.stages] for _, module in stage]
    said = f"{modules}/{entry.views}/{model.mean}/{model.std}"
    device = next(model.backbone.parameters()).device

    def compute(images: torch.Tensor) -> torch.Tensor:
        for module in modules:
            module.eval()
        batch = normalise(images, model.mean, model.std).to(device, memory_format=torch.channels_last)
        return run_stages(model.backbone, entry.stages, batch)

    return keep(fold, entry.views, compute, key=key_of(model, names, said), cache=entry.cache)


def _stacked(values: list[npt.NDArray[np.float16]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(values).astype(np.float32))
