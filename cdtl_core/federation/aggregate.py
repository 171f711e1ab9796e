"""Averages a group's updates: exact streaming sums, robust means, and updates that wait in a file.

Updates are float16, hence whole multiples of 2^-24, and weights are whole patients. In float64 the sum is exact while
``max |delta| * sum of weights < 2^29``, so the order of the replies does not change a bit of the result.

A minority of hostile sites cannot move a robust mean far. It gives every site the same weight, since a number of
patients can be false. It needs every update of a group at once, tensor by tensor, so these wait in a file.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cdtl_core.errors import FederationError
from cdtl_core.models.compiled import Loops, bits_of, on_cores
from cdtl_core.models.pieces import Buffers, in_parts, one_thread
from cdtl_core.models.weights import Weights
from cdtl_core.system.durable import unwritable

__all__ = ["AT_ONCE", "FEWEST", "Mean", "catch_up", "check_shapes", "fold_in", "mean_in_parts", "mean_of"]
__all__ += ["robust_mean", "spooled"]

FEWEST = 4
"""Smallest number of sites in a modality with which a rule can outvote one of them."""
AT_ONCE = 4
"""Updates that wait in memory to be added in one pass over the sums, which are four times as large as one of them.
`compiled.Loops` adds as many."""


_LONG = 1 << 20
"""Numbers that a loop adds in one call."""


@dataclass
class Mean:
    """A running patient-weighted sum of updates; a tensor that only some sites hold is averaged over those.

    Attributes:
        weights: Tensor to the patients of all sites that hold it.
        shapes: Tensor to its shape.
        sums: Of all updates but those that wait, float64.
        waiting: The newest updates, each with its patients.
        loops: Add float16 updates; None: torch does.
    """

    weights: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    sums: Weights = field(default_factory=dict)
    waiting: list[tuple[Mapping[str, torch.Tensor], int]] = field(default_factory=list)
    loops: Loops | None = None


def fold_in(mean: Mean, delta: Mapping[str, torch.Tensor], weight: int) -> None:
    """Add one site's update with its number of patients, in place.

    Args:
        mean: The running sum.
        delta: Finite; `norms.norm_of` checks that. It must not be written to afterwards.
        weight: Patients.

    Raises:
        FederationError: The weight is not positive, or a tensor has another shape.
    """
    if weight < 1:
        raise FederationError(f"an update has the weight {weight}: a site needs at least one patient.")
    check_shapes(delta, mean.shapes)
    if len(mean.waiting) == AT_ONCE:
        _add_waiting(mean)
    mean.waiting.append((delta, weight))
    for name, value in delta.items():
        mean.shapes[name] = value.shape
        mean.weights[name] = mean.weights.get(name, 0) + weight


def check_shapes(delta: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Refuse an update that cannot be averaged with others.

    Raises:
        FederationError: A tensor has another shape than in `shapes`.
    """
    for name, value in delta.items():
        other = shapes.get(name, value.shape)
        if other != value.shape:
            raise FederationError(
                f"an update has '{name}' with shape {tuple(value.shape)}, others {tuple(other)}: use one model."
            )


def mean_in_parts(mean: Mean, name: str, buffers: Buffers) -> Iterator[torch.Tensor]:
    """Yield the flat parts of a tensor's patient-weighted mean update, float64; the sum is used up.

    Args:
        mean: The sum.
        name: The tensor.
        buffers: Holds each part until the next one.
    """
    held = [delta[name] for delta, _ in mean.waiting if name in delta]
    if name not in mean.sums and len(held) == 1 and held[0].dtype == torch.float16:
        for (part,) in in_parts(held[0]):  # a product with whole patients is exact, hence their mean is the update
            yield buffers.double(part).add_(0.0)  # no zero is negative, as in a sum
        return
    for part in _sum_in_parts(mean, name, buffers):
        yield buffers.divided(part, mean.weights[name])


@one_thread()
def mean_of(mean: Mean) -> Weights:
    """Return the patient-weighted mean update, float64; the sum is used up."""
    buffers = Buffers()
    return {
        name: torch.cat([part.clone() for part in mean_in_parts(mean, name, buffers)]).view(shape)
        for name, shape in mean.shapes.items()
    }


def catch_up(mean: Mean) -> None:
    """Add the updates that wait if loops can: four at once. Torch adds fewer on the way to the mean."""
    if mean.loops and len(mean.waiting) == AT_ONCE:
        _add_waiting(mean)


def _add_waiting(mean: Mean) -> None:
    buffers, jobs = Buffers(), list[partial[None]]()
    for name, shape in mean.shapes.items():
        if name not in mean.sums:  # numpy asks the system for large pages, which are there four times as soon
            mean.sums[name] = torch.from_numpy(np.zeros(shape))
        held = [(delta[name], weight) for delta, weight in mean.waiting if name in delta]
        if mean.loops and len(held) == AT_ONCE and all(value.dtype == torch.float16 for value, _ in held):
            weights = np.array([weight for _, weight in held], np.float64)
            for total, *parts in in_parts(mean.sums[name], *(value for value, _ in held), size=_LONG):
                jobs.append(partial(mean.loops.add, total.numpy(), *map(bits_of, parts), weights))
            continue
        with one_thread():
            for _ in _sum_in_parts(mean, name, buffers):
                pass  # in place
    on_cores(jobs)
    mean.waiting.clear()


def _sum_in_parts(mean: Mean, name: str, buffers: Buffers) -> Iterator[torch.Tensor]:
    """Yield the flat parts of a tensor's sum with the updates that wait, in place of the sum if there is one."""
    held = [(delta[name], weight) for delta, weight in mean.waiting if name in delta]
    values, weights = [value for value, _ in held], [weight for _, weight in held]
    before = name in mean.sums
    for first, *others in in_parts(mean.sums[name], *values) if before else in_parts(*values):
        total = first if before else buffers.scaled(first, weights[0])
        for value, weight in zip(others, weights if before else weights[1:], strict=True):
            total.add_(buffers.double(value), alpha=weight)
        yield total


def robust_mean(deltas: Mapping[str, Weights], weights: Mapping[str, int], rule: str) -> Weights:
    """Return a group's mean update under a rule, float64; the patient-weighted mean for fewer than four updates.

    Args:
        deltas: Site to its update, finite, float16.
        weights: Site to its patients, for tensors that fewer than four sites hold.
        rule: ``trimmed`` (without the (S - 1) // 3 largest and smallest of each value), ``median`` (of each value) or
            ``krum`` (the one update that is nearest to its neighbours).

    Raises:
        FederationError: Shapes differ.

    Source: Yin et al. 2018, Byzantine-robust distributed learning; Blanchard et al. 2017, Machine learning with
        adversaries.
    """
    plain = Mean()
    for site in sorted(deltas):
        fold_in(plain, deltas[site], weights[site])
    mean = mean_of(plain)
    if len(deltas) < FEWEST:
        return mean
    if rule == "krum":
        chosen = deltas[_krum(deltas)]
        return {**mean, **{name: value.to(torch.float64) for name, value in chosen.items()}}
    return {name: _of_values(deltas, name, rule) if _holders(deltas, name) >= FEWEST else mean[name] for name in mean}


def spooled(weights: Weights) -> Weights:
    """Return the same CPU tensors, mapped from an unnamed temporary file that is removed with them.

    Raises:
        CheckpointError: The folder for temporary files (TMPDIR) is full or read-only.
    """
    sizes = [value.numel() * value.element_size() for value in weights.values()]
    if not sum(sizes):
        return weights
    try:
        with tempfile.TemporaryFile() as file:
            for value in weights.values():
                file.write(value.contiguous().numpy().data)
            file.flush()
            data = np.memmap(file, np.uint8, mode="c")
    except OSError as error:
        raise unwritable(Path(tempfile.gettempdir()), error) from None
    ends = np.cumsum(sizes)
    parts = [torch.from_numpy(data[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    return {
        name: part.view(value.dtype).reshape(value.shape)
        for (name, value), part in zip(weights.items(), parts, strict=True)
    }


def _holders(deltas: Mapping[str, Weights], name: str) -> int:
    return sum(name in delta for delta in deltas.values())


def _of_values(deltas: Mapping[str, Weights], name: str, rule: str) -> torch.Tensor:
    stack = torch.stack([deltas[site][name].to(torch.float64) for site in sorted(deltas) if name in deltas[site]])
    ordered, count = stack.sort(dim=0).values, len(stack)
    cut = (count - 1) // 3 if rule == "trimmed" else (count - 1) // 2
    return ordered[cut : count - cut].mean(dim=0)


def _krum(deltas: Mapping[str, Weights]) -> str:
    """Return the site with the smallest sum of squared distances to its S - f - 2 nearest updates, f = (S - 1) // 3."""
    sites = sorted(deltas)
    nearest = max(len(sites) - (len(sites) - 1) // 3 - 2, 1)
    scores = {}
    for site in sites:
        distances = sorted(_distance(deltas[site], deltas[other]) for other in sites if other != site)
        scores[site] = sum(distances[:nearest])
    return min(sites, key=lambda site: (scores[site], site))


def _distance(one: Weights, other: Weights) -> float:
    """Return the squared distance over the common tensors."""
    shared = [name for name in one if name in other]
    return sum(float((one[n].to(torch.float64) - other[n].to(torch.float64)).square().sum()) for n in shared)
