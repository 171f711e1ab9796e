"""All methods by name, with the default settings of a comparison."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from cdtl_core.errors import BY_SCRIPT, ConfigError, did_you_mean
from cdtl_core.simulation.about import ABOUT
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
    name: replace(method, about=ABOUT[name])
    for name, method in (
        ("alone", alone()),
        ("pooled", pooled()),
        ("fedavg", fedavg()),
        ("fedbn", fedbn()),
        ("fedprox", fedprox()),
        ("fedper", fedper()),
        ("ditto", ditto()),
        ("apfl", apfl()),
        ("fedamp", fedamp()),
        ("fedcross", fedcross()),
        ("cdtl", cdtl()),
        ("cdtl_equal", cdtl(equal=True)),
        ("cdtl_blend", blended()),
        ("cdtl_fixed", blended("fixed")),
        ("cdtl_retention", blended("retention")),
        ("cdtl_annealed", blended("annealed")),
        ("cdtl_scarce", blended("scarce")),
        ("cdtl_learned", cdtl_learned(validation_gains)),
        ("cdtl_learned_cosine", cdtl_learned(update_cosines)),
        ("cdtl_from_initial_weights", cdtl_from_initial_weights()),
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
        names = f"{did_you_mean(name, known)} one of {', '.join(known)}"
        raise ConfigError(f"the method '{name}' is unknown{names}.{BY_SCRIPT}")
    return METHODS[name]
