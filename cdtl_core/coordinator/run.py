"""A run from its first message to its last: wait for the sites, run the rounds, finish.

`cdtl_core.federation` is the algorithm. This module sends, receives, decodes and stores.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid

from cdtl_core.config import RunConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.coordinator.admission import KnownLedgers, enrolled_contracts
from cdtl_core.coordinator.exchange import Exchange, Reply
from cdtl_core.coordinator.membership import (
    DESCRIBE,
    Membership,
    admit,
    gather_sites,
    named,
    open_membership,
    quorum_fault,
)
from cdtl_core.coordinator.messages import contents_of, converse, expected_tensors
from cdtl_core.errors import CheckpointError, FederationError, ModelError
from cdtl_core.federation import wire
from cdtl_core.federation.checkpoint import load_latest, save_checkpoint
from cdtl_core.federation.journal import JournalFile, Traffic
from cdtl_core.federation.preflight import check_plan
from cdtl_core.federation.round import RoundReport, close_round
from cdtl_core.federation.screening import Screening, miss, open_screening, refuse, screen
from cdtl_core.federation.state import CoordinatorState, Member, is_quarantined, join, order_for, start
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.program import give_back_memory
from cdtl_core.system.progress import report

__all__ = ["Finish", "Round", "begin", "finish_run", "play_round", "play_run"]

_log = get_logger("cdtl.server")


@dataclass(frozen=True)
class Round:
    """Result of one round.

    Attributes:
        report: Report of the algorithm.
        traffic: Traffic of each site that was asked.
        joined: Sites that take part from the next round on.
    """

    report: RoundReport
    traffic: Mapping[str, Traffic]
    joined: tuple[str, ...]


@dataclass(frozen=True)
class Finish:
    """The end of a run.

    Attributes:
        finals: Site to its traffic, the figures of its model on test patients, and which model it uses.
        missing: Site to why it has no model.
    """

    finals: Mapping[str, tuple[Traffic, Mapping[str, float], str]]
    missing: Mapping[str, str]


def play_run(grid: Grid, config: RunConfig, folder: RunFolder, *, deployed: bool) -> str:
    """Run a federation from its last checkpoint, or from the start; return the members without a model and why.

    Args:
        grid: Flower's connection to the sites.
        config: The run's settings.
        folder: The run's folder.
        deployed: Whether a coordinator runs it, which knows its sites over all its runs; else it is a simulation.

    Raises:
        CdtlError: A setting is wrong, too few sites take part, or the disk fails; the sentence says which.
    """
    report(method=config.method)
    journal, checkpoints = JournalFile(folder.journal, config.method), folder.checkpoints(config.method)
    before, faults = load_latest(checkpoints)
    for fault in faults:
        _log.warning("%s", fault)
    membership = _open_membership(grid, config, folder, deployed=deployed)
    gather_sites(membership, {member.site: member for member in before.members} if before else {})
    state = begin(membership, before)
    for note in check_plan(state.members, config):
        _log.warning("%s", note)
    journal.rewind(state.round)

    while state.round < config.federation.rounds:
        began = time.monotonic()
        state, played = play_round(membership, state)
        seconds = time.monotonic() - began
        journal.add_round(played.report, played.traffic, played.joined, seconds)  # a resume drops it again
        save_checkpoint(checkpoints, state)
        give_back_memory()

    began = time.monotonic()
    finish = finish_run(membership, state)
    journal.add_ending(state.round + 1, finish.finals, finish.missing, time.monotonic() - began)
    return named({**finish.missing, **membership.absent()})


def begin(membership: Membership, before: CoordinatorState | None) -> CoordinatorState:
    """Return the state to continue with: the checkpoint's with sites that came since, or a new one.

    Raises:
        CheckpointError: The run started from other initial weights.
    """
    if before is None:
        return start(membership.members.values(), membership.config, membership.initial_weights_hash)
    if before.initial_weights_hash != membership.initial_weights_hash:
        raise CheckpointError(
            "the run began from other initial weights than model.weights gives now: restore that file."
        )
    return join(before, membership.members.values(), membership.config)


def play_round(membership: Membership, state: CoordinatorState) -> tuple[CoordinatorState, Round]:
    """Run one round: send orders, receive and screen one update at a time, then aggregate and blend.

    A site that introduces itself meanwhile takes part from the next round on.

    Raises:
        FederationError: Too few sites answered usably within `federation.round_timeout_s`.
    """
    config, members = membership.config, {member.site: member for member in state.members}
    report(round=state.round + 1, rounds=config.federation.rounds)
    orders = {m: order_for(state, m, config) for m in _present(membership, state) if not is_quarantined(state, m)}
    screening, traffic, newcomers = open_screening(state, config), dict[str, Traffic](), list[Reply]()

    def enough(answered: Collection[str]) -> bool:
        return not quorum_fault([members[site] for site in answered], config, "", {}, state.members)

    for reply in converse(membership, contents_of(membership, orders), "train", state, enough=enough):
        if reply.kind == DESCRIBE:
            newcomers.append(reply)
            continue
        traffic[reply.site] = reply.traffic
        _screen_reply(membership, screening, members[reply.site], reply)
    after, result = close_round(state, screening, config)

    _say_quarantined(state, after)
    _check_quorum(membership, state, result)
    membership.without_initial_weights -= set(result.updated)
    membership.without_initial_weights |= set(result.refused)
    new = admit(membership, newcomers, members)
    return join(after, new, config), Round(result, traffic, tuple(member.site for member in new))


def finish_run(membership: Membership, state: CoordinatorState) -> Finish:
    """Send every site the last weights of its group; each selects its model and reports which.

    Raises:
        FederationError: Too few sites could finish.
    """
    here = _present(membership, state)
    contents = contents_of(membership, {member: order_for(state, member, membership.config) for member in here})
    for member in here:
        contents[member.site].update(wire.encode_heads(state.heads, member))
    finals: dict[str, tuple[Traffic, Mapping[str, float], str]] = {}
    missing = {member.site: "not connected" for member in state.members if member.site not in contents}
    for reply in converse(membership, contents, "evaluate", state, enough=lambda _: False):
        if reply.kind == DESCRIBE:
            continue
        if reply.content is None:
            missing[reply.site] = reply.fault
            continue
        try:
            final = wire.decode_final(reply.content)
            finals[reply.site] = reply.traffic, final.metrics, final.chosen
        except FederationError as error:
            missing[reply.site] = str(error)
    done = [member for member in state.members if member.site in finals]
    if fault := quorum_fault(done, membership.config, "could finish", missing, state.members):
        raise FederationError(fault)
    return Finish(finals, missing)


def _open_membership(grid: Grid, config: RunConfig, folder: RunFolder, *, deployed: bool) -> Membership:
    """Open the membership of a run, without members yet.

    Args:
        grid: Flower's connection to the sites.
        config: The run's settings.
        folder: The run's folder.
        deployed: Whether a coordinator runs it.

    Raises:
        ModelError: The initial weights differ from the approved request: every site would refuse every order.
    """
    near = folder.folder if deployed else Path()
    weights = build_initial_weights(config.model, config.seed, config.image.size, folder=near)
    ledgers, enrolled = KnownLedgers(folder.ledgers(config.method, deployed=deployed)), enrolled_contracts(folder)
    membership = open_membership(Exchange(grid), config, weights, ledgers, enrolled)
    found, wanted = membership.initial_weights_hash, config.limits.initial_weights_hash
    if wanted not in {"", found}:
        raise ModelError(
            f"the initial weights have the hash {found[:12]}, the request that the sites approved names "
            f"{wanted[:12]}: restore the weights file and the versions of torch and timm, "
            "or make a new request under another name."
        )
    return membership


def _present(membership: Membership, state: CoordinatorState) -> list[Member]:
    """Return members of the run that have introduced themselves since it was started or resumed."""
    return [member for member in state.members if member.site in membership.members]


def _screen_reply(membership: Membership, screening: Screening, member: Member, reply: Reply) -> None:
    """Screen the content of a reply, which can be dropped afterwards.

    Args:
        membership: The run's membership.
        screening: The round in progress.
        member: The site.
        reply: Its reply.
    """
    if reply.content is None:
        miss(screening, reply.site, reply.fault)
        return
    expected, own_head = expected_tensors(membership, member)
    try:
        update = wire.decode_update(reply.content, reply.site, expected, screening.round, own_head)
    except FederationError as error:
        refuse(screening, reply.site, str(error))
        return
    screen(screening, update)


def _check_quorum(membership: Membership, state: CoordinatorState, result: RoundReport) -> None:
    """Refuse a round in which too few sites answered usably.

    Args:
        membership: The run's membership.
        state: Before the round.
        result: The round's report.

    Raises:
        FederationError: The sentence names the others and why.
    """
    usable = [member for member in state.members if member.site in (*result.updated, *result.spent)]
    what = f"gave a usable update in round {result.round}"
    if fault := quorum_fault(usable, membership.config, what, result.refused, state.members):
        raise FederationError(fault)


def _say_quarantined(before: CoordinatorState, after: CoordinatorState) -> None:
    for member in after.members:
        if is_quarantined(after, member) and not is_quarantined(before, member):
            _log.warning("%s is %s", member.site, after.records[member.site].quarantined)
