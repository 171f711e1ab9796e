"""Membership: sites introduce themselves, also later, and each is admitted or left out by name."""

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.app import RecordDict

from cdtl_core.config import RunConfig
from cdtl_core.coordinator.admission import KnownLedgers, checked_number
from cdtl_core.coordinator.exchange import PROVISIONAL, Exchange, Reply, pause
from cdtl_core.errors import FederationError
from cdtl_core.federation import wire
from cdtl_core.federation.contract import ModalityContract, check_contract
from cdtl_core.federation.state import Member
from cdtl_core.models.model import frozen_stages, parts_of, shared_classifier
from cdtl_core.models.weights import Weights, hash_once
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.progress import report

__all__ = [
    "DESCRIBE",
    "Membership",
    "admit",
    "ask_newcomers",
    "gather_sites",
    "named",
    "open_membership",
    "quorum_fault",
]

DESCRIBE = "query.describe"
_ASK_AGAIN_S = 10.0
_log = get_logger("cdtl.server")


@dataclass
class Membership:
    """The sites of a run: their introductions, why others are left out, and who still lacks the initial weights."""

    exchange: Exchange
    config: RunConfig
    initial_weights: Weights
    initial_weights_hash: str
    shared: Mapping[str, torch.Size]
    members: dict[str, Member] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    without_initial_weights: set[str] = field(default_factory=set)
    ledgers: KnownLedgers | None = None
    enrolled: Mapping[str, ModalityContract] = field(default_factory=dict)
    asked_at: dict[str, float] = field(default_factory=dict)
    _initial_weights_record: Any = field(default=None)

    def with_initial_weights(self, content: RecordDict) -> RecordDict:
        """Add the initial weights to the message for a site that lacks them; encoded once for all sites."""
        if self._initial_weights_record is None:
            self._initial_weights_record = wire.encode_initial_weights(self.initial_weights)
        content.update(self._initial_weights_record)
        return content

    def absent(self) -> dict[str, str]:
        """Return sites of the run that have not introduced themselves, each with the reason."""
        here = self.exchange.connected()
        expected = set(self.config.federation.sites) | set(self.left_out)
        why = {site: "working on its introduction" if site in here else "not connected" for site in expected}
        return {site: self.left_out.get(site, why[site]) for site in sorted(expected - set(self.members))}


def open_membership(
    exchange: Exchange,
    config: RunConfig,
    initial_weights: Weights,
    ledgers: KnownLedgers | None = None,
    enrolled: Mapping[str, ModalityContract] | None = None,
) -> Membership:
    """Return a membership without members.

    Args:
        exchange: Messages to the sites.
        config: The run's settings.
        initial_weights: The initial weights.
        ledgers: The coordinator's record of privacy ledgers.
        enrolled: Contracts of the enrolments.
    """
    model = shared_classifier(config.model, len(config.task.labels), config.image.size)
    names, state = parts_of(model, freeze=frozen_stages(model, config), share_head=True).shared, model.state_dict()
    shapes = {name: state[name].shape for name in names}
    return Membership(
        exchange,
        config,
        initial_weights,
        hash_once(initial_weights),
        shapes,
        ledgers=ledgers,
        enrolled=enrolled or {},
    )


def gather_sites(membership: Membership, known: Mapping[str, Member]) -> None:
    """Wait until all sites of the run have introduced themselves, at most `federation.join_timeout_s`.

    A resumed run waits at most for the time of a round; later sites join afterwards.

    Args:
        membership: Filled in place.
        known: Members of a resumed run.

    Raises:
        FederationError: Too few came; the sentence names the others and why.
    """
    settings = membership.config.federation
    limit = min(settings.join_timeout_s, settings.round_timeout_s) if known else settings.join_timeout_s
    deadline = time.monotonic() + limit
    said: dict[str, str] | None = None
    while not _complete(membership) and time.monotonic() < deadline:
        ask_newcomers(membership, left_s=deadline - time.monotonic())
        replies = membership.exchange.receive()
        admit(membership, replies, known)
        if not replies:
            said = _say(membership, said)
            pause()
    membership.exchange.forget(DESCRIBE)
    fault = quorum_fault(membership.members.values(), membership.config, "introduced themselves", membership.absent())
    if fault:
        raise FederationError(fault)


def ask_newcomers(membership: Membership, *, left_s: float) -> None:
    """Ask every connected site that is not a member yet for its introduction; a refused one is asked again later."""
    now, allowed = time.monotonic(), set(membership.config.federation.sites)
    busy = membership.exchange.waiting(DESCRIBE)
    for site in membership.exchange.connected():
        outside = allowed and site not in allowed and not site.startswith(PROVISIONAL)
        if outside or site in membership.members or site in busy:
            continue
        if now - membership.asked_at.get(site, -math.inf) >= _ASK_AGAIN_S:
            membership.asked_at[site] = now
            membership.exchange.send(
                site,
                wire.encode_question(membership.initial_weights_hash),
                DESCRIBE,
                group="0",
                timeout_s=max(left_s, 1.0),
            )


def admit(membership: Membership, replies: Iterable[Reply], known: Mapping[str, Member]) -> list[Member]:
    """Admit valid introductions and record the faults of the others; return the new members.

    Args:
        membership: Filled in place.
        replies: Replies to `query.describe`.
        known: The run's earlier knowledge of the members.
    """
    admitted = []
    for reply in replies:
        try:
            admitted.append(_admit(membership, reply, known))
        except FederationError as error:
            membership.left_out[reply.site] = str(error)
            _log.warning("%s is left out: %s", reply.site, error)
    return admitted


def quorum_fault(
    present: Collection[Member],
    config: RunConfig,
    what: str,
    faults: Mapping[str, str],
    expected: Collection[Member] = (),
) -> str:
    """Return why these sites are too few for the run, naming the others; empty if they are enough.

    Args:
        present: Sites that did `what`.
        config: The run's settings; each modality of `expected` and `present` needs `federation.min_per_modality` of
            them.
        what: What they did, for the sentence.
        faults: Why the others did not.
        expected: Members of the run.
    """
    settings = config.federation
    reasons = named(faults) or "the others are not connected"
    if len(present) < settings.min_sites:
        return f"{len(present)} of the {settings.min_sites} needed sites {what} ({reasons})."
    counts = Counter(member.modality for member in present)
    modalities = sorted({member.modality for member in (*expected, *present)})
    few = [f"{counts[name]} {name}" for name in modalities if counts[name] < settings.min_per_modality]
    if few:
        return f"{', '.join(few)} where {settings.min_per_modality} of each modality are needed {what} ({reasons})."
    return ""


def named(faults: Mapping[str, str]) -> str:
    """Return sites with their reasons, for a sentence."""
    return "; ".join(f"{site}: {why.rstrip('.')}" for site, why in faults.items())


def _complete(membership: Membership) -> bool:
    """Whether the run has no site left to wait for.

    A run that names its sites waits for each of them. Otherwise, in a simulation, it waits until enough nodes are
    connected and each has introduced itself or reported why it cannot.
    """
    settings, heard = membership.config.federation, set(membership.members) | set(membership.left_out)
    if settings.sites:
        return set(settings.sites) <= set(membership.members)
    here = set(membership.exchange.connected())
    return len(here) >= settings.min_sites and here <= heard


def _say(membership: Membership, said: Mapping[str, str] | None) -> dict[str, str]:
    """Log the sites that the run waits for, if they have changed."""
    absent = membership.absent()
    if absent != said:
        _log.info("waiting for %s", named(absent) or f"{membership.config.federation.min_sites} sites")
        report(waiting=absent)
    return absent


def _admit(membership: Membership, reply: Reply, known: Mapping[str, Member]) -> Member:
    """Return the member that a reply introduces.

    Raises:
        FederationError: It has no content, or does not fit the run or the run's earlier knowledge of the site.
    """
    if reply.content is None:
        raise FederationError(reply.fault)
    introduction = wire.decode_introduction(reply.content)
    member, provisional = introduction.member, reply.site.startswith(PROVISIONAL)
    _check_name(membership, member, reply)
    before = known.get(member.site)
    if before and (before.modality, before.label_hash) != (member.modality, member.label_hash):
        raise FederationError(f"site {member.site} came back with another modality or label map: start a new run.")
    check_contract(introduction.contract, membership.config, membership.initial_weights_hash)
    member = checked_number(member, introduction.contract, membership.enrolled.get(member.site))
    _check_privacy(membership, member)
    if provisional:
        membership.exchange.rename(reply.site, member.site)
    membership.members[member.site] = member
    membership.left_out.pop(reply.site, None)
    if not introduction.holds_initial_weights:
        membership.without_initial_weights.add(member.site)
    return member


def _check_name(membership: Membership, member: Member, reply: Reply) -> None:
    """Refuse a name that is in use, that was not admitted, or that is not in the run."""
    provisional = reply.site.startswith(PROVISIONAL)
    if member.site in membership.members or (provisional and member.site in membership.exchange.connected()):
        raise FederationError(f"two sites have the name {member.site}: give each site a different name.")
    if member.site != reply.site and not provisional:
        raise FederationError(
            f"the site introduces itself as {member.site} but was admitted as {reply.site}: enrol it again."
        )
    if membership.config.federation.sites and member.site not in membership.config.federation.sites:
        raise FederationError(f"site {member.site} is not one of this run's sites.")


def _check_privacy(membership: Membership, member: Member) -> None:
    """Refuse a site without differential privacy if the run requires it, and one without its known ledger."""
    if membership.config.dp.required and not member.ledger:
        raise FederationError(f"site {member.site} trains without differential privacy, which the run requires.")
    if membership.ledgers is not None:
        membership.ledgers.admit(member)
