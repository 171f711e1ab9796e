"""The coordinator's earlier knowledge of its sites: the contracts of their enrolments, and their privacy ledgers.

A contract cannot change without a new admission. A site that returns without its privacy ledger, or with an earlier
copy of it, is left out, because its spent budget is then unknown.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from cdtl_core.config.folders import RunFolder
from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation.contract import ModalityContract, load_contract, most_patients
from cdtl_core.federation.state import Member
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["KnownLedgers", "checked_number", "enrolled_contracts"]


class KnownLedgers:
    """The coordinator's record of its sites' ledgers, over all runs; ``site -> [number, reservations]`` in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def admit(self, member: Member) -> None:
        """Check a site's ledger against the record, and update the record.

        Raises:
            FederationError: It is another ledger than before, or an earlier copy.
        """
        if not member.ledger:
            return
        known = self._load()
        ledger, reservations = known.get(member.site, (member.ledger, 0))
        if member.ledger != ledger or member.reservations < reservations:
            what = "another privacy ledger" if member.ledger != ledger else "an earlier copy of its privacy ledger"
            raise FederationError(
                f"site {member.site} came back with {what}, so the spent epsilon of its patients is unknown: it must "
                "restore the newest copy of its folder privacy."
            )
        known[member.site] = (member.ledger, member.reservations)
        replace_json(self._path, known)

    def _load(self) -> dict[str, tuple[str, int]]:
        if not self._path.exists():
            return {}
        try:
            found = parse_json(self._path.read_text(encoding="utf-8")).items()
            return {site: (str(ledger), int(count)) for site, (ledger, count) in found}
        except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise FederationError(
                f"{self._path} cannot be read ({type(error).__name__}): restore it, because ledgers are compared with "
                "it."
            ) from None


def enrolled_contracts(run: RunFolder) -> Mapping[str, ModalityContract]:
    """Return site to the contract of its enrolment, as the coordinator's service wrote them; empty in a simulation.

    Raises:
        FederationError: The file cannot be read.
    """
    path = run.enrolled
    if not path.exists():
        return {}
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        return {str(site): load_contract(json.dumps(value), f"in {path.name}") for site, value in found.items()}
    except (OSError, ValueError, AttributeError, DataError) as error:
        raise FederationError(
            f"{path} cannot be read ({type(error).__name__}): restart the service, which writes it again."
        ) from None


def checked_number(member: Member, contract: ModalityContract, enrolled: ModalityContract | None) -> Member:
    """Return the member, if its number of patients is possible and its contract is that of its enrolment.

    Args:
        member: From its introduction.
        contract: From its introduction.
        enrolled: The contract that the coordinator admitted; None in a simulation.

    Raises:
        FederationError: It trains on no patient or on more than it has, or it enrolled with another contract.
    """
    if not 1 <= member.num_patients <= most_patients(contract):
        raise FederationError(
            f"site {member.site} reports {member.num_patients} training patients of {contract.patients} patients: the "
            "site must check its folder and start again."
        )
    if enrolled is not None and contract != enrolled:
        fields = [name for name, value in contract if value != getattr(enrolled, name)]
        raise FederationError(
            f"site {member.site} was admitted with another {' and '.join(fields)}: ask for its enrolment.json and "
            "admit that with cdtl server admit."
        )
    return member
