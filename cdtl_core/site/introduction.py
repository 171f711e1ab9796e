"""A site's introduction to a run: who takes part, with how many patients, as it enrolled."""

from dataclasses import replace
from pathlib import Path

from flwr.app import RecordDict

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import SiteFolder, federation_key
from cdtl_core.config.settings import load_site
from cdtl_core.errors import FederationError
from cdtl_core.federation import wire
from cdtl_core.federation.contract import ModalityContract, enrolled_contract, label_hash, most_patients
from cdtl_core.federation.state import Member
from cdtl_core.site.cohort import contract_of
from cdtl_core.site.home import open_site
from cdtl_core.site.initial_weights import holds_initial_weights
from cdtl_core.site.spending import is_private, ledger_of
from cdtl_core.system.foreign import get_logger

__all__ = ["describe_site"]

_log = get_logger("cdtl.site")


def describe_site(content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Return the introduction: name, modality, patients, label map, contract, and whether it has the initial weights.

    Args:
        content: The message.
        home: The site's folder.
        config: The run.
    """
    holds = holds_initial_weights(home, wire.decode_question(content))
    own, site = load_site(SiteFolder(home).settings), open_site(home, config)
    contract, enrolled = contract_of(home, site.cohort, config.task), enrolled_contract(home)
    member = Member(site.name, site.modality, site.cohort.folds["train"].num_patients, label_hash(site.cohort.labels))
    if is_private(own, config):
        ledger = ledger_of(home, own, config, site, federation_key(config.name, config.method))
        first, count = ledger.opening, len(ledger.reservations)
        member = replace(member, num_patients=first.num_patients, ledger=first.ledger, reservations=count)
        contract = contract.model_copy(update=dict(first.published))
    if enrolled is not None:
        member, contract = _as_enrolled(member, contract, enrolled), enrolled
    return wire.encode_introduction(wire.Introduction(member, holds, contract))


def _as_enrolled(member: Member, now: ModalityContract, enrolled: ModalityContract) -> Member:
    """Return the member as in its enrolment, even if its cohort has grown since.

    Args:
        member: The site now.
        now: Its current contract.
        enrolled: The contract of its enrolment.

    Raises:
        FederationError: Another site enrolled, or the run predicts other labels.
    """
    fields = [name for name, value in now if value != getattr(enrolled, name)]
    if wrong := sorted({"site", "modality", "labels", "positive", "intake_version", "unit"} & set(fields)):
        raise FederationError(
            f"this site enrolled with another {' and '.join(wrong)} than it has in this run: run cdtl site init, send "
            "the new enrolment.json to the coordinator, and start again once it is admitted."
        )
    if fields:
        _log.warning(
            "this site's %s changed since it enrolled, and it takes part as it enrolled: run cdtl site init and send "
            "the new enrolment.json to the coordinator",
            " and ".join(fields), extra={"site": member.site},
        )  # fmt: skip
    return replace(member, num_patients=min(member.num_patients, most_patients(enrolled)))
