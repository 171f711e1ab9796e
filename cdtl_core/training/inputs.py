"""Inputs of a network for a fold: its images, or the output of the frozen stages for a fixed pool of views.

Every `Inputs` is a function of places: which of the fold's images, whatever their exams. The network that continues
from there is `entered(model, entry)`.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from cdtl_core.config import AugmentConfig, RunConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.data.transforms import Augmentation, augment, normalise, to_unit
from cdtl_core.models.exams import Batch, Exams
from cdtl_core.models.model import Classifier
from cdtl_core.models.stages import run_stages, stages_of
from cdtl_core.training.device import CPU, computing, hardware_of, send
from cdtl_core.training.feature_cache import Kept, keep, key_of
from cdtl_core.training.features import cached_features
from cdtl_core.training.views import Views

__all__ = ["Entry", "Inputs", "Ints", "Network", "changed_inputs", "drawn_inputs", "entered"]
__all__ += ["entry_of", "plain_inputs", "random_view", "runs_a_network"]

_Network = TypeVar("_Network", bound="Network")
Ints = npt.NDArray[np.int64]
Inputs = Callable[[Ints], torch.Tensor]
"""From places B in a fold's `rows` to a module's input, B ...; may draw a changed view. Images are on the requested
device."""


@dataclass(frozen=True)
class Entry:
    """Where inputs enter a network: after its frozen stages, as a fixed pool of views.

    Attributes:
        stages: Number of frozen stages, 1 or more; None: all stages that the features need, so features enter.
        views: The pool of views of each image.
        cache: Folder for the output of the frozen stages; None: it is computed on demand.
    """

    stages: int | None
    views: Views
    cache: Path | None = None


def entry_of(config: RunConfig, cache: Path | None) -> Entry | None:
    """Return where inputs enter in a run; None: at the beginning, with images changed at each step."""
    train = config.train
    if config.dp.enabled or not train.views:
        return None
    if train.augment.transforms:
        cache = None  # stored outputs are named by the transforms' names, and their code may change
    frozen = config.model.levels and max(config.model.levels) <= train.freeze
    return Entry(None if frozen else train.freeze, Views(train.views, train.views_seed, train.augment), cache)


def entered(model: _Network, entry: Entry | None) -> _Network:
    """Return the network as one that takes the inputs of `entry`; it shares all tensors with `model`."""
    return model if entry is None else cast(Any, model).behind(entry.stages)


class Network(Protocol):
    """A network that scores images: a classifier, or several that are pooled.

    Attributes:
        mean: Per-channel constants for the normalisation of images, in [0, 1].
        std: Likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Batch) -> torch.Tensor:
        """Return logits B K."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features B D."""

    def classify(self, features: Batch) -> torch.Tensor:
        """Return logits B K of features."""

    def weights(self, features: Exams) -> torch.Tensor:
        """Return how much each image counts in its exam's decision, N."""

    def to(self, device: torch.device) -> Any:
        """Move the network to a device."""


def runs_a_network(fold: Fold, entry: Entry | None) -> bool:
    """Return whether the network itself computes the inputs during use, so that no other thread may make them."""
    return entry is not None and entry.cache is None and not fold.holds_features


def plain_inputs(model: Network, fold: Fold, entry: Entry | None = None, device: torch.device = CPU) -> Inputs:
    """Return the unchanged images, normalised for the model, or the activations of their plain views.

    Args:
        model: The network.
        fold: The images.
        entry: Where inputs enter; None: images.
        device: Where images are normalised; activations are on the CPU.

    Raises:
        CheckpointError, ModelError: As `keep`.
    """
    if entry is None:
        images = _images(fold, device)
        return lambda rows: normalise(images(rows), model.mean, model.std)
    if fold.holds_features:
        return lambda rows: torch.from_numpy(fold.pixels[fold.rows[rows], 0].astype(np.float32))
    kept = _activations(cast(Classifier, model), fold, entry)
    return lambda rows: _stacked([kept(row)[0] for row in rows.tolist()])


def changed_inputs(
    model: Classifier,
    fold: Fold,
    change: AugmentConfig,
    rng: np.random.Generator,
    entry: Entry | None = None,
    device: torch.device = CPU,
) -> Inputs:
    """Return images that are changed at each access, or activations of a random view from each image's pool.

    Args:
        model: The network.
        fold: The images.
        change: The largest changes.
        rng: The only source of randomness.
        entry: Where inputs enter; None: images.
        device: Where images are changed; activations are on the CPU.

    Raises:
        CheckpointError, ModelError: As `keep`.
    """
    if entry is not None and fold.holds_features:
        return lambda rows: _random_features(fold, rows, rng)
    if entry is not None:
        return random_view(_activations(model, fold, entry), 1 + entry.views.count, rng)
    changes = Augmentation(**change.model_dump())
    images = _images(fold, device)
    images_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def inputs(rows: Ints) -> torch.Tensor:
        return normalise(augment(images(rows), changes, images_rng), model.mean, model.std)

    return inputs


def drawn_inputs(inputs: Inputs, fold: Fold, units: Ints, config: TrainConfig, rng: np.random.Generator) -> Batch:
    """Return the inputs of some units of a fold; of a unit with more than `train.exam_images` images, of so many.

    Args:
        inputs: From places to images.
        fold: The images.
        units: B.
        config: Most images of a unit.
        rng: Draws them, without replacement; their order stays that of the exam. Not used where all images are taken.
    """
    if not fold.has_several:
        return inputs(units)
    most, found = config.exam_images, []
    for start, length in zip(fold.starts[units].tolist(), fold.lengths[units].tolist(), strict=True):
        chosen = np.arange(length) if length <= most else np.sort(rng.choice(length, most, replace=False))
        found.append(start + chosen)
    return Exams(inputs(np.concatenate(found)), tuple(map(len, found)))


def _images(fold: Fold, device: torch.device) -> Callable[[Ints], torch.Tensor]:
    """Return a function from rows to images B C H W in [0, 1] on a device; they are copied to it as bytes."""
    if device.type == "cpu":
        return lambda rows: to_unit(fold.pixels[fold.rows[rows]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array is read-only, and so is its use
        whole = torch.from_numpy(fold.pixels)
    # NumPy's indexing would hold the interpreter lock, and the thread that trains would wait for it.
    return lambda rows: to_unit(send(whole.index_select(0, torch.from_numpy(fold.rows[rows])), device))


def _random_features(fold: Fold, rows: Ints, rng: np.random.Generator) -> torch.Tensor:
    """Return what `random_view` gives for a fold that holds features, without a loop over rows."""
    images, views, *shape = fold.pixels.shape
    drawn = rng.integers(views, size=len(rows))
    flat = fold.pixels.reshape(images * views, *shape)
    return torch.from_numpy(flat.take(fold.rows[rows] * views + drawn, axis=0)).float()


def random_view(kept: Kept, num_views: int, rng: np.random.Generator) -> Inputs:
    """Return the stored values of one random view of each row, drawn at each access.

    Args:
        kept: From a row to its stored values, V ....
        num_views: V.
        rng: The only source of randomness.
    """

    def inputs(rows: Ints) -> torch.Tensor:
        views = rng.integers(num_views, size=len(rows))
        return _stacked([kept(row)[view] for row, view in zip(rows.tolist(), views.tolist(), strict=True)])

    return inputs


def _activations(model: Classifier, fold: Fold, entry: Entry) -> Kept:
    """Return the activations of the first stages for each image's pool, V ...; their weights must be final."""
    if fold.holds_features:
        return lambda row: fold.pixels[fold.rows[row]]
    if entry.stages is None:
        device = next(model.backbone.parameters()).device
        return cached_features(model, fold, entry.views, device=device, cache=entry.cache)
    stages = entry.stages
    frozen = [pair for stage in stages_of(model.backbone)[:stages] for pair in stage]
    weights = {
        f"{prefix}.{name}": value.cpu()
        for prefix, module in frozen
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }
    weights |= {name: value.detach().cpu() for name, value in model.backbone.named_parameters(recurse=False)}
    said = f"{model.name}/{stages}/{entry.views}/{model.mean}/{model.std}"
    device = next(model.backbone.parameters()).device
    hardware = hardware_of(device).exact

    def compute(images: torch.Tensor) -> torch.Tensor:
        for _, module in frozen:
            module.eval()
        batch = normalise(send(images, device), model.mean, model.std).to(device, memory_format=torch.channels_last)
        with computing(hardware):
            return run_stages(model.backbone, stages, batch)

    key = key_of(weights, said, device)
    return keep(fold, entry.views, compute, key=key, cache=entry.cache, device=device)


def _stacked(values: list[npt.NDArray[np.float16]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(values).astype(np.float32))
