"""The mean of the sites' deltas within a modality, streamed: one reply at a time, one accumulator per modality.

Deltas are float16, hence whole multiples of 2^-24, and weights are whole patients. In float64 the sum is exact as long
as ``max |delta| * sum of weights < 2^29``, so the order in which replies arrive cannot change a bit of the result.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from cdtl_core.errors import FederationError
from cdtl_core.learning.weights import Weights, is_finite

__all__ = ["Mean", "check_update", "fold_in", "mean_of"]

_PIECE = 32768


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
        if name not in mean.sums:
            mean.sums[name] = torch.zeros(value.shape, dtype=torch.float64)
        mean.weights[name] = mean.weights.get(name, 0) + weight
    parts = [part for name, value in delta.items() for part in _parts(mean.sums[name], value)]
    share = max(1, -(-len(parts) // torch.get_num_threads()))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        shares = [parts[at : at + share] for at in range(0, len(parts), share)]
        list(pool.map(_add, shares, [weight] * len(shares)))


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
        if not is_finite(value):
            raise FederationError(f"an update has values in '{name}' that are not finite: leave that site out.")


def mean_of(mean: Mean) -> Weights:
    """The patient-weighted mean delta, float64; the sum is used up."""
    return {name: total.div_(mean.weights[name]) for name, total in mean.sums.items()}


def _parts(total: torch.Tensor, value: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Sum and value in pieces that stay in a core's cache, and below the size that torch shares among threads."""
    sums, values = (torch.split(flat.view(-1), _PIECE) for flat in (total, value.contiguous()))
    return list(zip(sums, values, strict=True))


def _add(parts: Sequence[tuple[torch.Tensor, torch.Tensor]], weight: int) -> None:
    """Widen, then add: torch adds numbers of two types to each other eight times slower."""
    single, double = torch.empty(_PIECE, dtype=torch.float32), torch.empty(_PIECE, dtype=torch.float64)
    for total, value in parts:
        wide = double[: value.numel()].copy_(single[: value.numel()].copy_(value))
        total.add_(wide, alpha=weight)
