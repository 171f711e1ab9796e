"""What a comparison plays: methods, and the controls of a method, in which its donors know nothing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdtl_core.errors import ConfigError
from cdtl_core.federation.site import Site
from simulations.methods.donor_phantom import with_phantom_donors
from simulations.methods.donor_shuffled import with_shuffled_donors
from simulations.methods.donor_theta0 import cdtl_from_theta0
from simulations.methods.method import Method
from simulations.methods.registry import method_of

__all__ = ["ALONE", "Arm", "arm_of", "donors_to", "is_control", "theta0_control"]

ALONE = "alone"
_OF_DEFAULT = "cdtl_from_theta0"
_THETA0: Mapping[str, Callable[[], Method[Any]]] = {
    "cdtl_fixed": lambda: cdtl_from_theta0("fixed"),
    "cdtl_retention": lambda: cdtl_from_theta0("retention"),
    "cdtl_annealed": lambda: cdtl_from_theta0("annealed"),
    "cdtl_scarce": lambda: cdtl_from_theta0("scarce"),
}
_DONORS = ("shuffled", "phantom")


@dataclass(frozen=True)
class Arm:
    """A method and the donors that it is given.

    Attributes:
        name: As a person writes it: ``cdtl``, or ``cdtl:shuffled`` for a control.
        method: What is played.
        donors: Empty: as they are; else ``shuffled`` or ``phantom``.
    """

    name: str
    method: Method[Any]
    donors: str = ""

    def sites(self, sites: Sequence[Site], targets: Collection[str], *, seed: int, folder: Path) -> list[Site]:
        """The sites that this arm plays over.

        Args:
            sites: All, with the cell's folds.
            targets: Names of those that receive.
            seed: Of the labels that are dealt anew.
            folder: Where synthetic donors are kept; they are the same for every seed.
        """
        donors = donors_to(sites, targets)
        if self.donors == "shuffled":
            return with_shuffled_donors(sites, donors, seed=seed)
        if self.donors == "phantom":
            return with_phantom_donors(sites, donors, folder=folder, seed=0)
        return list(sites)


def arm_of(name: str) -> Arm:
    """The arm called `name`: a method, or ``METHOD:theta0``, ``METHOD:shuffled``, ``METHOD:phantom``.

    Raises:
        ConfigError: There is no such method or control.
    """
    method, colon, control = name.partition(":")
    if not colon:
        return Arm(name, method_of(name))
    if control == "theta0" and method in _THETA0:
        return Arm(name, _THETA0[method]())
    if control not in _DONORS:
        known = f"{_OF_DEFAULT}, {', '.join(f'{one}:theta0' for one in _THETA0)}, or METHOD:shuffled, METHOD:phantom"
        raise ConfigError(f"the control '{name}' is unknown: use {known}.")
    return Arm(name, method_of(method), control)


def is_control(name: str) -> bool:
    """Whether an arm's donors know nothing, so that nothing is claimed for it."""
    return ":" in name or name == _OF_DEFAULT


def theta0_control(name: str, played: Collection[str]) -> str | None:
    """The control that must be beaten before a gain is claimed: the method's own, else that of CDTL's default."""
    own = f"{name}:theta0"
    found = next((control for control in (own, _OF_DEFAULT) if control in played), None)
    return None if is_control(name) or name == ALONE else found


def donors_to(sites: Sequence[Site], targets: Collection[str]) -> tuple[str, ...]:
    """Sites that no target shares a modality with: those whose knowledge would have to cross."""
    receiving = {site.modality for site in sites if site.name in targets}
    return tuple(site.name for site in sites if site.modality not in receiving)
