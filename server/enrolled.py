"""What sites enrolled with, held against what they say in a run: a modality can't change, a number can't grow."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation.contract import ModalityContract, load_contract
from cdtl_core.federation.coordinator import Member
from cdtl_core.foreign import parse_json

__all__ = ["ENROLLED_FILE", "checked_number", "enrolled_contracts"]

ENROLLED_FILE = "enrolled.json"
_ROUNDED = 4
"""A contract's number is rounded to tens: so many more patients may stand behind it."""
_log = logging.getLogger("cdtl.server")


def enrolled_contracts(home: Path) -> Mapping[str, ModalityContract]:
    """Site to the contract it enrolled with, as the coordinator's service left them; none in a simulation.

    Raises:
        FederationError: The file cannot be read.
    """
    path = home / ENROLLED_FILE
    if not path.exists():
        return {}
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        return {str(site): load_contract(json.dumps(value), f"in {ENROLLED_FILE}") for site, value in found.items()}
    except (OSError, ValueError, AttributeError, DataError) as error:
        raise FederationError(
            f"{path} cannot be read ({type(error).__name__}): restart the service, it is written anew."
        ) from None


def checked_number(member: Member, contract: ModalityContract, enrolled: ModalityContract | None) -> Member:
    """The member with a number of patients that can be: at most what it enrolled with.

    Args:
        member: As it introduces itself.
        contract: As it introduces itself.
        enrolled: What the coordinator admitted; None in a simulation.

    Raises:
        FederationError: It trains on nobody or on more patients than it has, or enrolled with another modality.
    """
    if not 1 <= member.num_patients <= contract.patients + _ROUNDED:
        raise FederationError(
            f"site {member.site} says it trains on {member.num_patients} patients of {contract.patients}: let it check "
            "its folder and start again."
        )
    if enrolled is None:
        return member
    if enrolled.modality != member.modality:
        raise FederationError(
            f"site {member.site} was enrolled with {enrolled.modality} and says {member.modality}: enrol it anew."
        )
    most = enrolled.patients + _ROUNDED
    if member.num_patients > most:
        _log.warning(
            "%s says %d patients and enrolled with %d: it weighs with %d until it is enrolled anew",
            member.site, member.num_patients, enrolled.patients, most,
        )  # fmt: skip
    return replace(member, num_patients=min(member.num_patients, most))
