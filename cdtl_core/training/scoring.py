"""Computes what a network gives for a fold: log-probabilities of its units, features or weights of its images.

An exam of any length is scored in bounded memory: its images pass through the backbone in batches, and only their
features stay until all of them are there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cdtl_core.data.cohort import Fold
from cdtl_core.models.exams import Exams
from cdtl_core.models.model import Classifier
from cdtl_core.training.batches import plain_batches
from cdtl_core.training.device import CPU, Hardware, Where, computing, hardware_of
from cdtl_core.training.inputs import Entry, Network, entered
from cdtl_core.training.parts import Parts

__all__ = ["SCORE_BATCH", "embed", "place_network", "score", "score_and_embed", "weigh"]

SCORE_BATCH = 64
Floats = npt.NDArray[np.float64]


def score(model: Network, fold: Fold, *, device: Where, entry: Entry | None = None) -> Floats:
    """Return log-probabilities U K of a fold's units, in its order; all images of a unit count.

    Args:
        model: The network.
        fold: The images.
        device: Where to compute, and how.
        entry: Where inputs enter the network.
    """
    if fold.has_several:
        return _of_exams(model, fold, device, entry, lambda network, exams: _normalised(network.classify(exams)))
    return _computed(model, fold, device, entry, _log_probabilities).numpy().astype(np.float64)


def weigh(model: Network, fold: Fold, *, device: Where, entry: Entry | None = None) -> Floats:
    """Return how much each image counts in its unit's decision, N in the fold's order; the sum over a unit is 1.

    Args:
        model: The network.
        fold: The images.
        device: Where to compute, and how.
        entry: Where inputs enter the network.
    """
    return _of_exams(model, fold, device, entry, lambda network, exams: network.weights(exams))


def embed(model: Network, fold: Fold, *, device: Where, entry: Entry | None = None) -> Floats:
    """Return the features N D of all images of a fold, in its order: what the head sees before they are centred.

    Args:
        model: The network; it has the method `features`.
        fold: The images.
        device: Where to compute, and how.
        entry: Where inputs enter the network.
    """
    return _computed(model, fold, device, entry, _features).numpy().astype(np.float64)


def score_and_embed(
    model: Classifier, fold: Fold, *, device: Where, entry: Entry | None = None
) -> tuple[Floats, npt.NDArray[np.float32]]:
    """Return log-probabilities U K as `score`, and features N D as `embed`, from one pass of the images.

    Args:
        model: The network.
        fold: The images.
        device: Where to compute, and how.
        entry: Where inputs enter the network.
    """
    if fold.has_several:
        seen = list[torch.Tensor]()
        scores = _of_exams(
            model, fold, device, entry, lambda network, exams: _normalised(network.classify(exams)), seen
        )
        return scores, torch.cat(seen).numpy()
    both, sizes = _computed(model, fold, device, entry, _both), [model.head.out_features, model.head.in_features]
    of_units, of_images = torch.split(both, sizes, dim=1)
    return of_units.numpy().astype(np.float64, order="C"), of_images.contiguous().numpy()


def place_network(model: Network, entry: Entry | None, device: Where) -> Hardware:
    """Move a network to its device, and return the hardware that its inputs need.

    What follows stored features are small matrices. A CPU multiplies them faster than a GPU can be started, so with
    stored features only the backbone, which computes them, is on the GPU.
    """
    hardware, module = hardware_of(device), cast(nn.Module, model)
    if any(value.device != hardware.device for value in chain(module.parameters(), module.buffers())):
        module.to(hardware.device)
    if hardware.device.type == "cpu" or entry is None or entry.stages is not None:
        return hardware
    cast(Classifier, model).end().to(CPU)
    return Hardware(CPU)


def _computed(
    model: Network,
    fold: Fold,
    device: Where,
    entry: Entry | None,
    compute: Callable[[Any, torch.Tensor, Sequence[slice]], torch.Tensor],
) -> torch.Tensor:
    """Return what a network computes for a fold's images, N ....

    Args:
        model: The network.
        fold: The images.
        device: Where to compute, and how.
        entry: Where inputs enter the network.
        compute: From the network, a batch and its parts to the values.
    """
    hardware, parts = place_network(model, entry, device), Parts("images to score")
    cast(nn.Module, model).eval()
    network = entered(model, entry)
    with torch.inference_mode(), computing(hardware):
        found = [
            parts.run(len(images), partial(compute, network, images))
            for (images,) in plain_batches(model, fold, _batches(fold), hardware, entry)
        ]
    return torch.cat(found).cpu()


def _of_exams(
    model: Network,
    fold: Fold,
    device: Where,
    entry: Entry | None,
    compute: Callable[[Any, Exams], torch.Tensor],
    seen: list[torch.Tensor] | None = None,
) -> Floats:
    """Return what a network computes for exams from the features of all their images.

    Args:
        model: The network.
        fold: The images.
        device: Where to compute, and how.
        entry: Where inputs enter the network.
        compute: From the network and the features of complete exams to the values, in their order.
        seen: Gets the features of all images, in their order.
    """
    hardware, parts = place_network(model, entry, device), Parts("images to score")
    cast(nn.Module, model).eval()
    network, ends, lengths = entered(model, entry), np.cumsum(fold.lengths), fold.lengths.tolist()
    found, waiting = list[torch.Tensor](), list[torch.Tensor]()
    done = passed = 0
    with torch.inference_mode(), computing(hardware):
        for (images,) in plain_batches(model, fold, _batches(fold), hardware, entry):
            waiting.append(parts.run(len(images), partial(_features, network, images)))
            if seen is not None:
                seen.append(waiting[-1].cpu())
            passed += len(images)
            complete = int(np.searchsorted(ends, passed, side="right"))
            if complete > done:
                all_of = torch.cat(waiting)
                whole = len(all_of) - (passed - int(ends[complete - 1]))
                found.append(compute(network, Exams(all_of[:whole], lengths[done:complete])))
                waiting, done = [all_of[whole:]], complete
    return torch.cat(found).cpu().numpy().astype(np.float64)


def _batches(fold: Fold) -> list[np.ndarray]:
    """Return the places of all images, in batches."""
    return np.split(np.arange(fold.num_images), range(SCORE_BATCH, fold.num_images, SCORE_BATCH))


def _features(model: Any, images: torch.Tensor, cut: Sequence[slice]) -> torch.Tensor:
    """Return features B D of a batch, computed in parts."""
    return torch.cat([model.features(images[part]).float() for part in cut])


def _log_probabilities(model: Network, images: torch.Tensor, cut: Sequence[slice]) -> torch.Tensor:
    """Return log-probabilities B K of a batch, computed in parts."""
    return torch.cat([_normalised(model(images[part])) for part in cut])


def _both(model: Classifier, images: torch.Tensor, cut: Sequence[slice]) -> torch.Tensor:
    """Return log-probabilities and features of a batch side by side, B (K + D), computed in parts."""
    found = []
    for part in cut:
        features = model.features(images[part])
        found.append(torch.cat([_normalised(model.classify(features)), features.float()], dim=1))
    return torch.cat(found)


def _normalised(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(dim=1)
