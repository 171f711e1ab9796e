"""Means that a minority of hostile sites cannot move far; every site weighs alike, since a number can be a lie.

All of them need every update of a group at once; tensor by tensor, so only one tensor of each site is in memory.
"""

from collections.abc import Mapping

import torch

from cdtl_core.federation.aggregate import Mean, fold_in, mean_of
from cdtl_core.models.weights import Weights

__all__ = ["FEWEST", "robust_mean"]

FEWEST = 4
"""Sites of a modality below which no rule can outvote one of them."""


def robust_mean(deltas: Mapping[str, Weights], weights: Mapping[str, int], rule: str) -> Weights:
    """The mean of a group's updates under a rule, float64; the patient-weighted mean of fewer than four.

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


def _holders(deltas: Mapping[str, Weights], name: str) -> int:
    return sum(name in delta for delta in deltas.values())


def _of_values(deltas: Mapping[str, Weights], name: str, rule: str) -> torch.Tensor:
    stack = torch.stack([deltas[site][name].to(torch.float64) for site in sorted(deltas) if name in deltas[site]])
    ordered, count = stack.sort(dim=0).values, len(stack)
    cut = (count - 1) // 3 if rule == "trimmed" else (count - 1) // 2
    return ordered[cut : count - cut].mean(dim=0)


def _krum(deltas: Mapping[str, Weights]) -> str:
    """The site whose update has the smallest sum of squared distances to its S - f - 2 nearest, f = (S - 1) // 3."""
    sites = sorted(deltas)
    nearest = max(len(sites) - (len(sites) - 1) // 3 - 2, 1)
    scores = {}
    for site in sites:
        distances = sorted(_distance(deltas[site], deltas[other]) for other in sites if other != site)
        scores[site] = sum(distances[:nearest])
    return min(sites, key=lambda site: (scores[site], site))


def _distance(one: Weights, other: Weights) -> float:
    """Squared, over the tensors that both hold."""
    shared = [name for name in one if name in other]
    return sum(float((one[n].to(torch.float64) - other[n].to(torch.float64)).square().sum()) for n in shared)
