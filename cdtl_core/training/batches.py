"""Makes batches of a fold on the device; for a GPU a thread makes the next ones while it computes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, overload

import numpy as np
import torch

from cdtl_core.config import TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models import exams
from cdtl_core.models.exams import Exams
from cdtl_core.models.model import Classifier
from cdtl_core.training.device import Hardware, send
from cdtl_core.training.inputs import Entry, Network, changed_inputs, drawn_inputs, plain_inputs, runs_a_network
from cdtl_core.training.linear_head import batch_rows
from cdtl_core.training.parts import too_small

__all__ = ["Labelled", "ahead", "on_device", "plain_batches", "training_batches"]

Labelled = tuple[exams.Batch, torch.Tensor]
"""Inputs B ... of a network, or those of B exams, and their labels B."""
_Batch = TypeVar("_Batch", bound=tuple[Any, ...])
_IMAGES = 256
"""Number of images that a GPU changes together: one call for many costs the training thread less than many calls."""
_AHEAD = 2
"""Batches that wait on a GPU; one would do if all took the same time to make."""


def training_batches(
    model: Classifier,
    fold: Fold,
    config: TrainConfig,
    rng: np.random.Generator,
    hardware: Hardware,
    entry: Entry | None,
) -> Iterator[Labelled]:
    """Return `config.steps` changed batches with their labels: shuffled passes over all units.

    Args:
        model: The network.
        fold: The training images.
        config: Steps, batch size, most images of an exam, augmentation.
        rng: The only source of randomness.
        hardware: Where the batches are used.
        entry: Where inputs enter the network.
    """
    inputs = changed_inputs(model, fold, config.augment, rng, entry, hardware.device)
    order = batch_rows(fold.num_units, config, rng)
    several = fold.has_several or runs_a_network(fold, entry) or not hardware.is_gpu
    draw = partial(drawn_inputs, inputs, fold, config=config, rng=rng)
    found = _batches(draw, fold, order, hardware.device, 1 if several else max(1, _IMAGES // config.batch_size))
    return found if runs_a_network(fold, entry) else ahead(found, hardware)


def _batches(
    draw: Callable[[np.ndarray], exams.Batch], fold: Fold, order: np.ndarray, device: torch.device, together: int
) -> Iterator[Labelled]:
    """Yield inputs and labels of the units in `order`, steps x batch size.

    Args:
        draw: Returns the inputs of some units.
        fold: The units.
        order: Units of each batch.
        device: Where they are used.
        together: Number of batches that are made together.
    """
    size = order.shape[1]
    for at in range(0, len(order), together):
        units = order[at : at + together].ravel()
        images, labels = on_device(draw(units), device), send(torch.from_numpy(fold.labels[units]), device)
        for start in range(0, len(units), size):
            yield images[start : start + size], labels[start : start + size]


def plain_batches(
    model: Network, fold: Fold, batches: Sequence[np.ndarray], hardware: Hardware, entry: Entry | None
) -> Iterator[tuple[torch.Tensor]]:
    """Return batches of unchanged images, whatever their exams.

    Args:
        model: The network.
        fold: The images.
        batches: Places in the fold's `rows`, for each batch.
        hardware: Where the batches are used.
        entry: Where inputs enter the network.
    """
    inputs = plain_inputs(model, fold, entry, hardware.device)
    found = ((on_device(inputs(rows), hardware.device),) for rows in batches)
    return found if runs_a_network(fold, entry) else ahead(found, hardware)


@overload
def on_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor: ...
@overload
def on_device(batch: exams.Batch, device: torch.device) -> exams.Batch: ...
def on_device(batch: exams.Batch, device: torch.device) -> exams.Batch:
    """Return inputs B ... on the network's device; B C H W in the layout of its weights."""
    if isinstance(batch, Exams):
        return batch.map(lambda images: on_device(images, device))
    placed = send(batch, device) if batch.device.type == "cpu" else batch
    return placed.to(device, memory_format=torch.channels_last) if batch.ndim == 4 else placed


def ahead(batches: Iterator[_Batch], hardware: Hardware) -> Iterator[_Batch]:
    """Yield the same batches in the same order; for a GPU a thread makes the next ones on its own stream.

    Args:
        batches: Must not run a network that the caller also runs.
        hardware: Where the batches are made and used.
    """
    if not hardware.is_gpu:
        yield from batches
        return
    stream = torch.cuda.Stream(hardware.device)  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream(hardware.device)
    stream.wait_stream(current)
    with ThreadPoolExecutor(1, "batches") as thread:
        ready: deque[Future[tuple[_Batch, torch.cuda.Event] | None]] = deque(
            thread.submit(_make, batches, stream) for _ in range(_AHEAD)
        )
        while (made := ready.popleft().result()) is not None:
            ready.append(thread.submit(_make, batches, stream))
            batch, done = made
            current.wait_event(done)
            for tensor in batch:
                tensor.record_stream(current)  # its memory is reused only after the caller's work
            yield batch


def _make(batches: Iterator[_Batch], stream: torch.cuda.Stream) -> tuple[_Batch, torch.cuda.Event] | None:
    try:
        with torch.cuda.stream(stream):
            batch = next(batches, None)
            return None if batch is None else (batch, stream.record_event())
    except torch.OutOfMemoryError:
        raise too_small("the images of the next batch") from None
