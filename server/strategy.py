"""The coordinator's conversation: introduce, play rounds, finish. Decode, step, encode; the algorithm is the core's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from flwr.app import RecordDict
from flwr.serverapp import Grid

from cdtl_core.config import RunConfig
from cdtl_core.errors import CheckpointError, FederationError
from cdtl_core.federation import wire
from cdtl_core.federation.contract import check_contract
from cdtl_core.federation.coordinator import (
    CoordinatorState,
    Member,
    RoundReport,
    group_of,
    order_for,
    shares_head,
    step,
)
from cdtl_core.federation.finish import ALONE
from cdtl_core.federation.gate import BLENDED
from cdtl_core.federation.label_map import label_hash
from cdtl_core.federation.site import RoundOrder, SiteUpdate
from cdtl_core.learning.model import build_classifier, parts_of
from cdtl_core.learning.weights import Weights, weights_hash
from cdtl_core.progress import report
from server.exchange import Reply, ask, await_nodes

__all__ = ["Party", "finish_run", "introduce", "play_round", "resume_with"]


@dataclass
class Party:
    """Who takes part: Flower's node of each site, what the site said of itself, and who still lacks theta0."""

    grid: Grid
    config: RunConfig
    theta0: Weights
    nodes: dict[str, int]
    members: tuple[Member, ...]
    theta0_hash: str
    without_theta0: set[str]
    shared: Mapping[str, torch.Size]
    _theta0_record: Any = field(default=None)

    def with_theta0(self, content: RecordDict) -> RecordDict:
        """Add theta0 to a message for a site that lacks it; encoded once for all sites."""
        if self._theta0_record is None:
            self._theta0_record = wire.encode_theta0(self.theta0)
        content["theta0"] = self._theta0_record
        return content


def introduce(grid: Grid, config: RunConfig, theta0: Weights) -> Party:
    """Ask every connected node who it is.

    Raises:
        FederationError: A site's contract does not fit the run, or fewer answer than `federation.min_sites`.
    """
    timeout = config.federation.round_timeout_s
    nodes = {f"node {node}": node for node in await_nodes(grid, config.federation.min_sites, timeout_s=timeout)}
    questions = {name: RecordDict() for name in nodes}
    replies = list(ask(grid, nodes, questions, "query.describe", group="0", timeout_s=timeout))
    faults = {reply.site: reply.fault for reply in replies if reply.content is None}
    known = {r.site: wire.decode_introduction(r.content) for r in replies if r.content is not None}
    _require_quorum(len(known), config, "sites introduced themselves", faults)
    members = tuple(introduction.member for introduction in known.values())
    expected, shared = weights_hash(theta0), _shared_shapes(config)
    for introduction in known.values():
        check_contract(introduction.contract, config, expected)
    without = {one.member.site for one in known.values() if one.theta0_hash != expected}
    by_site = {introduction.member.site: nodes[name] for name, introduction in known.items()}
    return Party(grid, config, theta0, by_site, members, expected, without, shared)


def resume_with(party: Party, state: CoordinatorState) -> CoordinatorState:
    """The state of a checkpoint, if the party is the one that made it.

    Raises:
        CheckpointError: The run began from another theta0.
        FederationError: A site now has another modality or label map.
    """
    if state.theta0_hash != party.theta0_hash:
        raise CheckpointError("the run began from another theta0 than model.weights gives now: restore that file.")
    known = {member.site: member for member in state.members}
    for member in party.members:
        before = known.get(member.site)
        if before and (before.modality, before.label_hash) != (member.modality, member.label_hash):
            raise FederationError(f"site {member.site} came back with another modality or label map: start a new run.")
    return state


def play_round(party: Party, state: CoordinatorState) -> tuple[CoordinatorState, RoundReport, dict[str, Reply]]:
    """Send every site its order, step with the updates as they come, and keep the sizes of what crossed.

    Raises:
        FederationError: Fewer sites answered usably than `federation.min_sites`.
    """
    report(round=state.round + 1, rounds=party.config.federation.rounds)
    here = [member for member in state.members if member.site in party.nodes]
    contents = {m.site: _order_content(party, m, {BLENDED: order_for(state, m, party.config)}) for m in here}
    replies: dict[str, Reply] = {}
    faults: dict[str, str] = {}
    updates = _updates(party, ask_all(party, contents, "train", state.round + 1), replies, faults)
    after, result = step(state, updates, party.config)
    faults |= result.refused
    _require_quorum(len(result.updated), party.config, f"sites gave a usable update in round {after.round}", faults)
    party.without_theta0 -= set(result.updated)
    absent = tuple(site for site in result.absent if site not in faults)
    return after, replace(result, refused=faults, absent=absent), replies


def finish_run(party: Party, state: CoordinatorState) -> Iterator[tuple[Reply, wire.FinalScalars]]:
    """Send every site the last weights of its group and yield what it says of the model it chose.

    Raises:
        FederationError: A site can't answer.
    """
    here = [member for member in state.members if member.site in party.nodes]
    contents = {m.site: _order_content(party, m, _final_orders(party, state, m)) for m in here}
    for reply in ask_all(party, contents, "evaluate", state.round + 1):
        if reply.content is None:
            raise FederationError(f"site {reply.site} could not finish: {reply.fault}")
        yield reply, wire.decode_final(reply.content)


def ask_all(party: Party, contents: Mapping[str, RecordDict], kind: str, round: int) -> Iterator[Reply]:
    """`ask` with the party's nodes and time limit."""
    timeout = party.config.federation.round_timeout_s
    return ask(party.grid, party.nodes, contents, kind, group=str(round), timeout_s=timeout)


def _shared_shapes(config: RunConfig) -> dict[str, torch.Size]:
    """Names and shapes of what a site of the task's label map shares."""
    model = build_classifier(config.model, len(config.task.labels), config.image.size)
    names, state = parts_of(model, freeze=config.train.freeze, share_head=True).shared, model.state_dict()
    return {name: state[name].shape for name in names}


def _order_content(party: Party, member: Member, orders: Mapping[str, RoundOrder]) -> RecordDict:
    config = party.config
    baseline = f"{config.name}-{ALONE}" if config.method == "cdtl" else ""
    content = wire.encode_order(orders, party.theta0_hash, baseline)
    return party.with_theta0(content) if member.site in party.without_theta0 else content


def _final_orders(party: Party, state: CoordinatorState, member: Member) -> dict[str, RoundOrder]:
    group, share = group_of(member, party.config), shares_head(state, member, party.config)
    orders = {BLENDED: RoundOrder(state.round + 1, state.drifts[group], share)}
    before, after = state.unblended[group], state.drifts[group]
    if party.config.method == "cdtl" and any(not before[name].equal(after[name]) for name in before):
        orders["unblended"] = RoundOrder(state.round + 1, before, share)
    return orders


def _updates(
    party: Party, replies: Iterator[Reply], seen: dict[str, Reply], faults: dict[str, str]
) -> Iterator[SiteUpdate]:
    """Decode replies one at a time; the content is dropped once it has been consumed."""
    members = {member.site: member for member in party.members}
    for reply in replies:
        seen[reply.site] = replace(reply, content=None)
        if reply.content is None:
            faults[reply.site] = reply.fault
            continue
        try:
            yield wire.decode_update(reply.content, reply.site, _expected(party, members[reply.site]))
        except FederationError as error:
            faults[reply.site] = str(error)


def _expected(party: Party, member: Member) -> dict[str, torch.Size]:
    """Names and shapes that a site's update may hold: the shared backbone, and the head of its own label map.

    The number of labels of another label map than the task's is the site's to say: -1.
    """
    labels = party.config.task.labels
    count = len(labels) if member.label_hash == label_hash(labels) else -1
    features = party.shared["head.weight"][1]
    backbone = {name: shape for name, shape in party.shared.items() if not name.startswith("head.")}
    if not party.config.share.head:
        return backbone
    prefix = f"head.{member.label_hash}"
    return {**backbone, f"{prefix}.weight": torch.Size([count, features]), f"{prefix}.bias": torch.Size([count])}


def _require_quorum(count: int, config: RunConfig, what: str, faults: Mapping[str, str]) -> None:
    wanted = config.federation.min_sites
    if count < wanted:
        reasons = "; ".join(f"{site}: {why.rstrip('.')}" for site, why in faults.items())
        raise FederationError(f"{count} of the {wanted} needed {what} ({reasons or 'the others are not connected'}).")
