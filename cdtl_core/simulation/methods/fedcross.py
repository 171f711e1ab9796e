"""FedCross: as many models as sites circulate; after each round each model mixes with one other."""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from cdtl_core.federation.transfer import Matrix
from cdtl_core.models.weights import Weights
from cdtl_core.simulation.methods.method import Federation, Method
from cdtl_core.simulation.methods.peers import Peers, begin_peers, deployed_peer, mix_peers, train_peers, weights_of

__all__ = ["Selection", "cosines", "cross_matrix", "dispatch", "fedcross"]

Selection = Literal["lowest", "in_order"]


def fedcross(alpha: float = 0.99, selection: Selection = "lowest") -> Method[Peers]:
    """Return FedCross: models trained by one site per round, mixed as ``alpha w_i + (1 - alpha) w_j``.

    Args:
        alpha: A model's own share in a mixture, in [0.5, 1).
        selection: Choice of j: the least similar model by cosine, or each other one in turn.

    Source: Hu et al. 2024 (FedCross), without its acceleration. Differs: as many middleware models as sites, all of
    which take part in each round; norms stay at the sites and are not in the mean; similarity is over the shared
    tensors.
    """

    def round(federation: Federation, state: Peers) -> Peers:
        seats = dispatch(list(federation.sites), federation.config.seed, state.round)
        sent = {site: state.offsets[model] for site, model in seats.items()}
        trained = train_peers(federation, state, sent)
        back = {model: trained.offsets[site] for site, model in seats.items()}
        models = {name: back[name] for name in federation.sites}
        whole = {name: weights_of(federation.initial_weights, offset) for name, offset in models.items()}
        matrix = cross_matrix(cosines(whole), alpha, selection, round=state.round)
        return replace(trained, offsets=mix_peers(models, matrix))

    def model_of(federation: Federation, state: Peers, site: str) -> Weights:
        count = len(state.offsets)
        mean = mix_peers(state.offsets, np.full((count, count), 1 / count))
        everything = {name: value for offset in mean.values() for name, value in offset.items()}
        return deployed_peer(federation, state, site, everything)

    return Method(begin_peers, round, model_of)


def dispatch(names: list[str], seed: int, round: int) -> dict[str, str]:
    """Return which middleware model (named like the sites) each site trains after `round` rounds: a permutation.

    Args:
        names: The sites.
        seed: Seed of the permutations.
        round: Number of the round.
    """
    rng = np.random.default_rng([seed, zlib.crc32(b"fedcross"), round])
    return dict(zip(names, rng.permutation(names).tolist(), strict=True))


def cross_matrix(similarity: Matrix, alpha: float, selection: Selection, *, round: int) -> Matrix:
    """Return the mixing matrix, one partner per row: ``A_ii = alpha``, ``A_ij = 1 - alpha``; identity for one model.

    Args:
        similarity: S S.
        alpha: A model's own share.
        selection: Choice of the partner.
        round: Number of the round.

    Source: Hu et al. 2024 (FedCross), cross-aggregation; in order, model i of K meets ``i + r mod (K - 1) + 1 mod K``.
    """
    count = len(similarity)
    matrix = np.eye(count)
    if count == 1:
        return matrix
    for row in range(count):
        others = np.where(np.arange(count) == row, np.inf, similarity[row])
        turn = (row + round % (count - 1) + 1) % count
        other = int(others.argmin()) if selection == "lowest" else turn
        matrix[row, [row, other]] = alpha, 1 - alpha
    return matrix


def cosines(models: Mapping[str, Weights]) -> Matrix:
    """Return the cosine similarity S S between models, over their common tensors."""
    return np.array([[_cosine(one, two) for two in models.values()] for one in models.values()], np.float64)


def _cosine(one: Weights, two: Weights) -> float:
    both = [name for name in one if name in two]
    inner = sum(float((one[name].double() * two[name].double()).sum()) for name in both)
    lengths = [sum(float(model[name].double().square().sum()) for name in both) ** 0.5 for model in (one, two)]
    return inner / (lengths[0] * lengths[1]) if lengths[0] * lengths[1] > 0 else 0.0
