"""Averages a group's updates: exact streaming sums, robust means, and updates that wait in a file.

Updates are float16, hence whole multiples of 2^-24, and weights are whole patients. In float64 the sum is exact while
``max |delta| * sum of weights < 2^29``, so the order of the replies does not change a bit of the result.

A minority of hostile sites cannot move a robust mean far. It gives every site the same weight, since a number of
patients can be false. It needs every update of a group at once, tensor by tensor, so these wait in a file.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cdtl_core.errors import FederationError
from cdtl_core.models.pieces import Piece, over_pieces, scratch, widened
from cdtl_core.models.weights import Weights
from cdtl_core.system.durable import unwritable

__all__ = ["FEWEST", "Mean", "check_shapes", "fold_in", "mean_of", "robust_mean", "spooled"]

FEWEST = 4
"""Smallest number of sites in a modality with which a rule can outvote one of them."""


@dataclass
class Mean:
    """A running patient-weighted sum of updates; a tensor that only some sites hold is averaged over those."""

    sums: Weights = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)


def fold_in(mean: Mean, delta: Mapping[str, torch.Tensor], weight: int) -> None:
    """Add one site's update with its number of patients, in place.

    Args:
        mean: The running sum.
        delta: Finite; `screening.norm_of` checks that.
        weight: Patients.

    Raises:
        FederationError: The weight is not positive, or a tensor has another shape.
    """
    if weight < 1:
        raise FederationError(f"an update has the weight {weight}: a site needs at least one patient.")
    check_shapes(delta, mean.sums)
    for name, value in delta.items():
        if name not in mean.sums:
            mean.sums[name] = torch.zeros(value.shape, dtype=torch.float64)
        mean.weights[name] = mean.weights.get(name, 0) + weight

    def add(pieces: Sequence[Piece]) -> None:
        single, double = scratch(torch.float32), scratch(torch.float64)
        for total, value in pieces:
            total.add_(widened(value, single, double), alpha=weight)

    over_pieces(add, [(mean.sums[name], value) for name, value in delta.items()])


def check_shapes(delta: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> None:
    """Refuse an update that cannot be averaged with others.

    Raises:
        FederationError: A tensor has another shape than in `others`.
    """
    for name, value in delta.items():
        other = others.get(name)
        if other is not None and other.shape != value.shape:
            raise FederationError(
                f"an update has '{name}' with shape {tuple(value.shape)}, others {tuple(other.shape)}: use one model."
            )


def mean_of(mean: Mean) -> Weights:
    """Return the patient-weighted mean update, float64; the sum is divided in place."""
    return {name: total.div_(mean.weights[name]) for name, total in mean.sums.items()}


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
