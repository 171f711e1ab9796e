"""FedAMP: each site is attracted to a mixture of all models in which similar ones weigh more."""

from collections.abc import Mapping

import numpy as np

from cdtl_core.federation.blend import blend
from cdtl_core.federation.transfer import Matrix
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.peers import Peers, begin_peers, deployed_peer, received_peer, train_peers
from cdtl_core.training.objective import Proximal

__all__ = ["attention", "distances", "fedamp"]


def fedamp(pull: float = 1.0, others: float = 0.5, sigma: float | None = None) -> Method[Peers]:
    """Return FedAMP: clouds ``u_i = sum_j xi_ij w_j``; each site trains its w_i with ``pull / 2 ||w_i - u_i||^2``.

    Args:
        pull: lambda / alpha_k; 0 is local training.
        others: Share of the others in u_i if all models were equal.
        sigma: Width of the attention; None: the median of the squared distances between the models.

    Source: Huang et al. 2021 (FedAMP), algorithm 1. Differs: sigma follows the models' distances, which depend on the
    network; norms are local and not part of the distance; training continues from w_i with a round's steps.
    """

    def round(federation: Federation, state: Peers) -> Peers:
        clouds = blend(state.offsets, attention(distances(state.offsets), others, sigma))
        return train_peers(
            federation,
            state,
            state.offsets,
            lambda site: Proximal(pull, received_peer(federation, state, site, clouds[site])),
        )

    def model_of(federation: Federation, state: Peers, site: str) -> Weights:
        return deployed_peer(federation, state, site, state.offsets[site])

    return Method(begin_peers, round, model_of)


def distances(models: Mapping[str, Weights]) -> Matrix:
    """Return squared distances S S between models, over their common tensors."""
    found = [[_distance(one, two) for two in models.values()] for one in models.values()]
    return np.array(found, np.float64)


def attention(squared: Matrix, others: float, sigma: float | None) -> Matrix:
    """Return xi S S: ``xi_ij = alpha_k A'(||w_i - w_j||^2)``, ``A(x) = 1 - exp(-x / sigma)``; rows sum to 1.

    alpha_k is such that the others together weigh `others` if all distances are 0, so no xi_ii is negative.

    Args:
        squared: Squared distances, S S.
        others: Share of the others for equal models.
        sigma: Width.

    Source: Huang et al. 2021 (FedAMP), with the A of its experiments.
    """
    count = len(squared)
    if count == 1:
        return np.ones((1, 1))
    off = ~np.eye(count, dtype=bool)
    width = sigma or float(np.median(squared[off])) or 1.0
    xi = np.where(off, others / (count - 1) * np.exp(-squared / width), 0.0)
    return xi + np.diag(1 - xi.sum(axis=1))


def _distance(one: Weights, two: Weights) -> float:
    both = [name for name in one if name in two]
    return float(sum((one[name].double() - two[name].double()).square().sum() for name in both))
