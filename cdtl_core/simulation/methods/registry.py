"""All methods by name, with the default settings of a comparison."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from cdtl_core.errors import ConfigError, did_you_mean
from cdtl_core.simulation.methods.alone import alone
from cdtl_core.simulation.methods.apfl import apfl
from cdtl_core.simulation.methods.blended import blended
from cdtl_core.simulation.methods.cdtl import cdtl
from cdtl_core.simulation.methods.cdtl_learned import cdtl_learned, update_cosines, validation_gains
from cdtl_core.simulation.methods.ditto import ditto
from cdtl_core.simulation.methods.donor_initial_weights import cdtl_from_initial_weights
from cdtl_core.simulation.methods.fedamp import fedamp
from cdtl_core.simulation.methods.fedavg import fedavg
from cdtl_core.simulation.methods.fedbn import fedbn
from cdtl_core.simulation.methods.fedcross import fedcross
from cdtl_core.simulation.methods.fedper import fedper
from cdtl_core.simulation.methods.fedprox import fedprox
from cdtl_core.simulation.methods.method import Method
from cdtl_core.simulation.methods.pooled import pooled

__all__ = ["METHODS", "method_of"]

METHODS: dict[str, Method[Any]] = {
    name: replace(method, about=about)
    for name, method, about in (
        ("alone", alone(), "local training, the reference of all others"),
        ("pooled", pooled(), "all sites' images in one place: an upper bound that privacy forbids"),
        ("fedavg", fedavg(), "every tensor is averaged over all sites, norms too"),
        ("fedbn", fedbn(), "all weights are averaged, norms stay at each site"),
        ("fedprox", fedprox(), "FedBN, training pulled towards the received weights"),
        ("fedper", fedper(), "FedBN whose heads stay at their sites"),
        ("ditto", ditto(), "a personal model beside the global one, pulled towards it"),
        ("apfl", apfl(), "each site mixes its own model and the global one, and learns the share"),
        ("fedamp", fedamp(), "one model per site; similar models attract each other"),
        ("fedcross", fedcross(), "one model per site; they circulate and are mixed in pairs"),
        ("cdtl", cdtl(), "own and joint model, pooled at each site by evidence"),
        ("cdtl_equal", cdtl(equal=True), "cdtl with equal shares, whatever the evidence"),
        ("cdtl_blend", blended(), "modalities blend in every round, by blend.policy"),
        ("cdtl_fixed", blended("fixed"), "the same, with the policy fixed"),
        ("cdtl_retention", blended("retention"), "the same, with the policy retention"),
        ("cdtl_annealed", blended("annealed"), "the same, with the policy annealed"),
        ("cdtl_scarce", blended("scarce"), "the same, with the policy scarce"),
        ("cdtl_learned", cdtl_learned(validation_gains), "donors chosen by their gain on validation patients"),
        ("cdtl_learned_cosine", cdtl_learned(update_cosines), "donors chosen by the likeness of updates"),
        ("cdtl_from_initial_weights", cdtl_from_initial_weights(), "control: donors that keep the initial weights"),
    )
}


def method_of(name: str, also: Iterable[str] = ()) -> Method[Any]:
    """Return the method called `name`.

    Args:
        name: Name of a method.
        also: Further names for the error message.

    Raises:
        ConfigError: No method has this name.
    """
    if name not in METHODS:
        known = dict.fromkeys((*METHODS, *also))
        raise ConfigError(f"the method '{name}' is unknown{did_you_mean(name, known)} one of {', '.join(known)}.")
    return METHODS[name]
