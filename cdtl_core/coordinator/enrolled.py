"""What sites enrolled with, held against what they say in a run: a contract cannot change without a new admission."""

import json
from collections.abc import Mapping
from pathlib import Path

from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation.contract import ModalityContract, load_contract, most_patients
from cdtl_core.federation.round import Member
from cdtl_core.system.foreign import parse_json

__all__ = ["ENROLLED_FILE", "checked_number", "enrolled_contracts"]

ENROLLED_FILE = "enrolled.json"


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
    """The member, if its number of patients can be and its contract is the one it enrolled with.

    Args:
        member: As it introduces itself.
        contract: As it introduces itself.
        enrolled: What the coordinator admitted; None in a simulation.

    Raises:
        FederationError: It trains on nobody or on more patients than it has, or enrolled with another contract.
    """
    if not 1 <= member.num_patients <= most_patients(contract):
        raise FederationError(
            f"site {member.site} says it trains on {member.num_patients} patients of {contract.patients}: let it check "
            "its folder and start again."
        )
    if enrolled is not None and contract != enrolled:
        fields = [name for name, value in contract if value != getattr(enrolled, name)]
        raise FederationError(
            f"site {member.site} was admitted with another {' and '.join(fields)}: let it send its enrolment.json and "
            "admit that with cdtl server admit."
        )
    return member
