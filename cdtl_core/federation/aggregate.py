"""The mean of the sites' deltas within a modality, streamed: one reply at a time, one accumulator per modality.

Deltas are float16, hence whole multiples of 2^-24, and weights are whole patients. In float64 the sum is exact as long
as ``max |delta| * sum of weights < 2^29``, so the order in which replies arrive cannot change a bit of the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from cdtl_core.errors import FederationError
from cdtl_core.learning.weights import Weights

__all__ = ["Mean", "check_update", "fold_in", "mean_of"]


@dataclass
class Mean:
    """A running patient-weighted sum of deltas; tensors that only some sites hold are averaged over those."""

    sums: Weights = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)


def fold_in(mean: Mean, delta: Mapping[str, torch.Tensor], weight: int) -> None:
    """Add one site's delta with its number of patients, in place.

    Raises:
        FederationError: The weight is not positive, or a tensor has another shape or a value that is not finite.
    """
    if weight < 1:
        raise FederationError(f"an update has the weight {weight}: a site needs at least one patient.")
    check_update(delta, mean.sums)
    for name, value in delta.items():
        if name in mean.sums:
            mean.sums[name].add_(value.to(torch.float64), alpha=weight)
        else:
            mean.sums[name] = value.to(torch.float64).mul_(weight)
        mean.weights[name] = mean.weights.get(name, 0) + weight


def check_update(delta: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor] | None = None) -> None:
    """Refuse an update that cannot be averaged with others.

    Raises:
        FederationError: A tensor has another shape than in `others`, or a value that is not finite.
    """
    for name, value in delta.items():
        other = (others or {}).get(name)
        if other is not None and other.shape != value.shape:
            raise FederationError(
                f"an update has '{name}' with shape {tuple(value.shape)}, others {tuple(other.shape)}: use one model."
            )
        if not bool(torch.isfinite(value).all()):
            raise FederationError(f"an update has values in '{name}' that are not finite: leave that site out.")


def mean_of(mean: Mean) -> Weights:
    """The patient-weighted mean delta, float64."""
    return {name: total / mean.weights[name] for name, total in mean.sums.items()}
