"""The coordinator's conversation: play rounds, finish. Decode, step, encode; the algorithm is the core's."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from flwr.app import RecordDict

from cdtl_core.coordinator.exchange import Reply
from cdtl_core.coordinator.membership import DESCRIBE, Membership, admit, ask_newcomers, quorum_fault
from cdtl_core.errors import CheckpointError, FederationError
from cdtl_core.federation import wire
from cdtl_core.federation.egress import sends_own_head
from cdtl_core.federation.label_map import label_hash
from cdtl_core.federation.round import CoordinatorState, Member, RoundReport, join, order_for, start, step, strike
from cdtl_core.federation.site import RoundOrder, SiteUpdate
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.progress import report

__all__ = ["Finish", "Round", "begin", "finish_run", "play_round"]

_log = get_logger("cdtl.server")
_Enough = Callable[[Collection[str]], bool]


@dataclass(frozen=True)
class Round:
    """What one round left: its report, the sizes of what crossed, and who joined for the next one."""

    report: RoundReport
    replies: Mapping[str, Reply]
    joined: tuple[str, ...]


@dataclass(frozen=True)
class Finish:
    """The end of a run: what each site says of its model, and why others have none."""

    finals: Mapping[str, tuple[Reply, wire.FinalScalars]]
    missing: Mapping[str, str]


@dataclass
class _Heard:
    """What a round's replies said beside the updates; `broken` are of sites that sent what cannot be read."""

    sizes: dict[str, Reply] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    newcomers: list[Reply] = field(default_factory=list)


def begin(membership: Membership, before: CoordinatorState | None) -> CoordinatorState:
    """The state to go on with: of the checkpoint, with those who came since, or a new one.

    Raises:
        CheckpointError: The run began from other initial weights.
    """
    if before is None:
        return start(membership.members.values(), membership.config, membership.initial_weights_hash)
    if before.initial_weights_hash != membership.initial_weights_hash:
        raise CheckpointError(
            "the run began from other initial weights than model.weights gives now: restore that file."
        )
    return join(before, membership.members.values(), membership.config)


def play_round(membership: Membership, state: CoordinatorState) -> tuple[CoordinatorState, Round]:
    """Send every site its order and step with the updates as they come; who comes meanwhile joins the next round.

    Raises:
        FederationError: Too few sites answered usably within `federation.round_timeout_s`.
    """
    report(round=state.round + 1, rounds=membership.config.federation.rounds)
    asked = [member for member in state.members if member.site in membership.members and _counts(state, member)]
    contents = _contents(membership, {m: order_for(state, m, membership.config) for m in asked})
    heard = _Heard()
    after, result = step(state, _updates(membership, state, contents, heard), membership.config)
    after = strike(after, heard.broken, membership.config)
    faults = heard.faults | dict(result.refused)
    _say_quarantined(state, after)
    updated = [member for member in state.members if member.site in (*result.updated, *result.spent)]
    what = f"gave a usable update in round {after.round}"
    if fault := quorum_fault(updated, membership.config, what, faults, state.members):
        raise FederationError(fault)
    membership.without_initial_weights = (membership.without_initial_weights - set(result.updated)) | set(faults)
    new = admit(membership, heard.newcomers, {member.site: member for member in state.members})
    absent = tuple(site for site in result.absent if site not in faults)
    joined = tuple(member.site for member in new)
    return join(after, new, membership.config), Round(
        replace(result, refused=faults, absent=absent), heard.sizes, joined
    )


def _counts(state: CoordinatorState, member: Member) -> bool:
    """Whether a member's updates count: one in quarantine is not asked for any."""
    return not (member.site in state.records and state.records[member.site].quarantined)


def _say_quarantined(before: CoordinatorState, after: CoordinatorState) -> None:
    for member in after.members:
        if _counts(before, member) and not _counts(after, member):
            _log.warning("%s is %s", member.site, after.records[member.site].quarantined)


def finish_run(membership: Membership, state: CoordinatorState) -> Finish:
    """Send every site the last weights of its group; each chooses its model and says which.

    Raises:
        FederationError: Too few sites could finish.
    """
    members = {member.site: member for member in state.members}
    here = [member for member in state.members if member.site in membership.members]
    contents = _contents(membership, {m: order_for(state, m, membership.config) for m in here})
    for member in here:
        contents[member.site].update(wire.encode_heads(state.heads, member))
    finals: dict[str, tuple[Reply, wire.FinalScalars]] = {}
    missing = {site: "not connected" for site in members if site not in contents}
    for reply in _conversation(membership, contents, "evaluate", state, enough=lambda _: False):
        if reply.kind == DESCRIBE:
            continue
        if reply.content is None:
            missing[reply.site] = reply.fault
            continue
        try:
            finals[reply.site] = replace(reply, content=None), wire.decode_final(reply.content)
        except FederationError as error:
            missing[reply.site] = str(error)
    done = [members[site] for site in finals]
    if fault := quorum_fault(done, membership.config, "could finish", missing, state.members):
        raise FederationError(fault)
    return Finish(finals, missing)


def _conversation(
    membership: Membership,
    contents: Mapping[str, RecordDict],
    kind: str,
    state: CoordinatorState,
    *,
    enough: Callable[[Collection[str]], bool],
) -> Iterator[Reply]:
    """Ask, and yield the answers; who is waited for, and who comes meanwhile, is looked after between them."""
    limit = membership.config.federation.round_timeout_s
    membership.exchange.look()
    ask_newcomers(membership, left_s=limit)
    for site, content in contents.items():
        membership.exchange.send(site, content, kind, group=str(state.round + 1), timeout_s=limit)

    def meanwhile() -> None:
        waiting = {site: why or "at work" for site, why in membership.exchange.waiting(kind).items()}
        report(waiting=waiting)
        ask_newcomers(membership, left_s=limit)

    yield from membership.exchange.collect(kind, timeout_s=limit, enough=enough, meanwhile=meanwhile)


def _updates(
    membership: Membership, state: CoordinatorState, contents: Mapping[str, RecordDict], heard: _Heard
) -> Iterator[SiteUpdate]:
    """Decode replies one at a time; the content is dropped once it has been consumed."""
    members = {member.site: member for member in state.members}

    def enough(answered: Collection[str]) -> bool:
        return not quorum_fault([members[site] for site in answered], membership.config, "", {}, state.members)

    given: list[str] = []
    for reply in _conversation(membership, contents, "train", state, enough=enough):
        if reply.kind == DESCRIBE:
            heard.newcomers.append(reply)
            continue
        heard.sizes[reply.site] = replace(reply, content=None)
        if reply.content is None:
            heard.faults[reply.site] = reply.fault
            continue
        try:
            expected = _expected(membership, members[reply.site])
            head = {name: shape for name, shape in expected.items() if name.startswith("head.")}
            own_head = head if sends_own_head(membership.config) else None
            update = wire.decode_update(reply.content, reply.site, expected, state.round + 1, own_head)
        except FederationError as error:
            heard.faults[reply.site] = heard.broken[reply.site] = str(error)
            continue
        given.append(update.site)
        yield update
    if not given:
        what = f"gave a usable update in round {state.round + 1}"
        raise FederationError(quorum_fault([], membership.config, what, heard.faults))


def _contents(membership: Membership, orders: Mapping[Member, RoundOrder]) -> dict[str, RecordDict]:
    """A message for each site; sites with the same order share its records, so memory does not grow with sites."""
    encoded = dict[tuple[int, bool], RecordDict]()
    contents = {}
    for member, order in orders.items():
        same = id(order.offset), order.share_head
        if same not in encoded:
            encoded[same] = wire.encode_order(order, membership.initial_weights_hash)
        content = RecordDict(dict(encoded[same]))
        contents[member.site] = (
            membership.with_initial_weights(content) if member.site in membership.without_initial_weights else content
        )
    return contents


def _expected(membership: Membership, member: Member) -> dict[str, torch.Size]:
    """Names and shapes that a site's update may hold: the shared backbone, and the head of its own label map.

    The number of labels of another label map than the task's is the site's to say: -1.
    """
    labels = membership.config.task.labels
    count = len(labels) if member.label_hash == label_hash(labels) else -1
    features = membership.shared["head.weight"][1]
    backbone = {name: shape for name, shape in membership.shared.items() if not name.startswith("head.")}
    if not membership.config.share.head:
        return backbone
    prefix = f"head.{member.label_hash}"
    return {**backbone, f"{prefix}.weight": torch.Size([count, features]), f"{prefix}.bias": torch.Size([count])}
