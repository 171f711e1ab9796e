"""The mean of the sites' deltas within a modality, streamed: one reply at a time, one accumulator per modality.

Deltas are float16, hence whole multiples of 2^-24, and weights are whole patients. In float64 the sum is exact as long
as ``max |delta| * sum of weights < 2^29``, so the order in which replies arrive cannot change a bit of the result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cdtl_core.errors import FederationError
from cdtl_core.models.pieces import Piece, over_pieces, scratch, widened
from cdtl_core.models.weights import Weights

__all__ = ["Mean", "check_shapes", "fold_in", "mean_of"]


@dataclass
class Mean:
    """A running patient-weighted sum of deltas; tensors that only some sites hold are averaged over those."""

    sums: Weights = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)


def fold_in(mean: Mean, delta: Mapping[str, torch.Tensor], weight: int) -> None:
    """Add one site's delta with its number of patients, in place.

    Args:
        mean: What it is added to.
        delta: Finite: see `guard.norm_of`.
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
    """The patient-weighted mean delta, float64; the sum is used up."""
    return {name: total.div_(mean.weights[name]) for name, total in mean.sums.items()}
