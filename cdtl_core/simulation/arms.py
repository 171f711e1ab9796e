"""The arms of a comparison: methods, and controls of a method whose donors carry no knowledge."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cdtl_core.errors import ConfigError
from cdtl_core.federation.site import Site
from cdtl_core.simulation.about import ABOUT
from cdtl_core.simulation.methods.alone import alone_ridge
from cdtl_core.simulation.methods.apfl import apfl
from cdtl_core.simulation.methods.baselines import donors_only, ensemble, fedbn_tuned
from cdtl_core.simulation.methods.ditto import ditto
from cdtl_core.simulation.methods.donor_initial_weights import cdtl_from_initial_weights
from cdtl_core.simulation.methods.donor_phantom import with_phantom_donors
from cdtl_core.simulation.methods.donor_shuffled import with_shuffled_donors
from cdtl_core.simulation.methods.fedprox import fedprox
from cdtl_core.simulation.methods.loop import play_in
from cdtl_core.simulation.methods.method import Federation, Method, Model
from cdtl_core.simulation.methods.own_twice import own_twice
from cdtl_core.simulation.methods.registry import METHODS, method_of
from cdtl_core.simulation.methods.tuned import tuned
from cdtl_core.system.plugins import adopt, adopt_all, naming_plugin, plugins

__all__ = ["ALONE", "Arm", "arm_of", "control_of", "is_control", "methods", "register_method"]

ALONE = "alone"
_BY_ITSELF = (ALONE, "alone_ridge", "own_twice")
_CONTROLS = ("own_twice", "cdtl_from_initial_weights")
Control = Literal["", "shuffled", "initial", "phantom"]

# three values for each strength; those of a penalty are a power of ten apart
_OWN: Mapping[str, Method[Any]] = {
    name: replace(method, about=ABOUT[name])
    for name, method in (
        ("alone_ridge", tuned(alone_ridge, (0.01, 0.1, 1.0))),
        ("fedprox", tuned(fedprox, (0.01, 0.1, 1.0))),
        ("ditto", tuned(ditto, (0.01, 0.1, 1.0))),
        ("apfl", tuned(apfl, (0.25, 0.5, 0.75))),
        ("fedbn_tuned", fedbn_tuned()),
        ("donors", donors_only()),
        ("ensemble", ensemble()),
        ("own_twice", own_twice()),
    )
}
"""Methods that a comparison trains in a special way, or that exist only in a comparison."""

_INITIAL_WEIGHTS: Mapping[str, Callable[[], Method[Any]]] = {
    "cdtl_fixed": lambda: cdtl_from_initial_weights("fixed"),
    "cdtl_retention": lambda: cdtl_from_initial_weights("retention"),
    "cdtl_annealed": lambda: cdtl_from_initial_weights("annealed"),
    "cdtl_scarce": lambda: cdtl_from_initial_weights("scarce"),
}


@dataclass(frozen=True)
class Arm:
    """A method and the kind of its donors.

    Attributes:
        name: As on the command line: ``cdtl``, or ``cdtl:shuffled`` for a control.
        method: The method.
        control: Empty: the donors are unchanged.
    """

    name: str
    method: Method[Any]
    control: Control = ""

    @property
    def takes_donors(self) -> bool:
        """Whether other sites change the result."""
        return self.name not in _BY_ITSELF

    def play(self, federation: Federation, *, seed: int, folder: Path) -> Model:
        """Return the model of the only receiver.

        Args:
            federation: The receiver, as the cell defines it, and its donors.
            seed: Seed of shuffled labels.
            folder: Folder for synthetic donors, which are the same for every seed.

        Raises:
            CdtlError: A setting, the data or the training fails; the sentence gives the reason.
        """
        (receiver,) = federation.receivers
        if not self.takes_donors:
            federation = federation.only([receiver])
        donors = [name for name in federation.sites if name != receiver]
        if self.control == "initial":
            # donors that do not move would make the receiver's update too long in comparison
            federation = replace(federation.under({"aggregate": {"norm_bound": 0.0}}), still=frozenset(donors))
        else:
            sites = self._sites(list(federation.sites.values()), donors, seed, folder)
            federation = replace(federation, sites={site.name: site for site in sites})
        with naming_plugin("methods", self.name.partition(":")[0]):
            return play_in(federation, self.method)[receiver]

    def _sites(self, sites: Sequence[Site], donors: Collection[str], seed: int, folder: Path) -> list[Site]:
        if self.control == "shuffled":
            return with_shuffled_donors(sites, donors, seed=seed)
        if self.control == "phantom":
            return with_phantom_donors(sites, donors, folder=folder, seed=0)
        return list(sites)


def register_method(name: str, method: Method[Any]) -> None:
    """Make a method known to this process, for comparisons.

    For the command line, put it into a package (docs/guides/package.md).

    Args:
        name: As in ``study_of(config, methods=...)``: lower case, digits, ``_`` and ``-``, at most 48 characters.
        method: What is played.

    Raises:
        ConfigError: The name is taken or malformed, or `method` is no Method.

    Examples:
        >>> from cdtl_core import register_method
        >>> from cdtl_core.simulation.methods import coordinated
        >>> register_method("fedbn_median", coordinated({"method": "fedbn", "aggregate": {"robust": "median"}}))
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,47}", name):
        raise ConfigError(f"method name {name!r}: use a-z, 0-9, _ and -, at most 48 characters, a letter first.")
    if name in METHODS or name in _OWN or name in _CONTROLS:
        raise ConfigError(f"method '{name}' exists already: choose another name.")
    if not isinstance(method, Method):
        raise ConfigError(f"method '{name}' is {method!r}: give a cdtl_core.Method.")
    METHODS[name] = method


def methods() -> dict[str, Method[Any]]:
    """Return all methods of a comparison by name, but for broken plugins; controls are made of them."""
    adopt_all("methods", _register)
    return {**METHODS, **_OWN}


def arm_of(name: str) -> Arm:
    """Return the arm called `name`: a method, or METHOD:CONTROL.

    Raises:
        ConfigError: There is no such method or control.
    """
    method, colon, control = name.partition(":")
    adopt("methods", method, _register)
    if not colon:
        also = [*_OWN, *(one.name for one in plugins("methods"))]
        return Arm(name, _OWN[name] if name in _OWN else method_of(name, also=also))
    if control == "initial_weights" and method in _INITIAL_WEIGHTS:
        return Arm(name, _INITIAL_WEIGHTS[method]())
    known: Mapping[str, Control] = {"shuffled": "shuffled", "initial": "initial", "phantom": "phantom"}
    if control not in known or method in _BY_ITSELF:
        raise ConfigError(
            f"the control '{name}' is unknown: use METHOD:shuffled, METHOD:initial or METHOD:phantom of a method that "
            f"has donors, cdtl_from_initial_weights, {', '.join(f'{one}:initial_weights' for one in _INITIAL_WEIGHTS)}."
        )
    return Arm(name, arm_of(method).method, known[control])


def _register(name: str, found: object) -> None:
    """Register a plugin's method, or what a function without arguments returns."""
    with naming_plugin("methods", name):
        method = found if isinstance(found, Method) or not callable(found) else found()
    if not isinstance(method, Method):
        raise ConfigError("it is neither a cdtl_core.Method nor a function that returns one.")
    register_method(name, method)


def is_control(name: str) -> bool:
    """Whether an arm's donors carry no knowledge, so that no gain is claimed for it."""
    return ":" in name or name in _CONTROLS


def control_of(name: str, played: Collection[str]) -> str | None:
    """Return the control that a method must beat before a gain is claimed: its own with shuffled labels."""
    own = f"{name}:shuffled"
    return own if own in played else None
