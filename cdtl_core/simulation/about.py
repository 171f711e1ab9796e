"""The methods of a comparison in a few words each, by name; the methods themselves are loaded when one is played."""

from collections.abc import Mapping

__all__ = ["ABOUT"]

ABOUT: Mapping[str, str] = {
    "alone": "local training, the reference of all others",
    "pooled": "all sites' images in one place: an upper bound that privacy forbids",
    "fedavg": "every tensor is averaged over all sites, norms too",
    "fedbn": "all weights are averaged, norms stay at each site",
    "fedprox": "FedBN, training pulled towards the received weights",
    "fedper": "FedBN whose heads stay at their sites",
    "ditto": "a personal model beside the global one, pulled towards it",
    "apfl": "each site mixes its own model and the global one, and learns the share",
    "fedamp": "one model per site; similar models attract each other",
    "fedcross": "one model per site; they circulate and are mixed in pairs",
    "cdtl": "own and joint model, pooled at each site by evidence",
    "cdtl_equal": "cdtl with equal shares, whatever the evidence",
    "cdtl_blend": "modalities blend in every round, by blend.policy",
    "cdtl_fixed": "the same, with the policy fixed",
    "cdtl_retention": "the same, with the policy retention",
    "cdtl_annealed": "the same, with the policy annealed",
    "cdtl_scarce": "the same, with the policy scarce",
    "cdtl_learned": "donors chosen by their gain on validation patients",
    "cdtl_learned_cosine": "donors chosen by the likeness of updates",
    "cdtl_from_initial_weights": "control: donors that keep the initial weights",
    "alone_ridge": "local training with ridge, its strength by validation",
    "fedbn_tuned": "FedBN, then one more round of local training",
    "donors": "FedBN of the other sites only",
    "ensemble": "mean of the probabilities of alone and fedavg",
    "own_twice": "control: two own models of different seeds, pooled",
}
