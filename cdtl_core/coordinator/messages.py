"""The messages of a round: their content, the wait for replies, and the tensors that a reply may hold."""

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from flwr.app import RecordDict

from cdtl_core.coordinator.exchange import Reply
from cdtl_core.coordinator.membership import Membership, ask_newcomers
from cdtl_core.federation import wire
from cdtl_core.federation.egress import expected_shapes, sends_own_head
from cdtl_core.federation.site import RoundOrder
from cdtl_core.federation.state import CoordinatorState, Member
from cdtl_core.system.progress import report

__all__ = ["contents_of", "converse", "expected_tensors"]

Shapes = dict[str, torch.Size]


def converse(
    membership: Membership,
    contents: Mapping[str, RecordDict],
    kind: str,
    state: CoordinatorState,
    *,
    enough: Callable[[Collection[str]], bool],
) -> Iterator[Reply]:
    """Send each site its message and yield replies as they come; newcomers are asked for introductions meanwhile.

    Args:
        membership: The run's membership.
        contents: Site to message.
        kind: Flower's message type.
        state: Before the round.
        enough: Whether these sites' answers are enough, so that lost sites are not waited for.
    """
    limit = membership.config.federation.round_timeout_s
    membership.exchange.look()
    ask_newcomers(membership, left_s=limit)
    for site, content in contents.items():
        membership.exchange.send(site, content, kind, group=str(state.round + 1), timeout_s=limit)

    def meanwhile() -> None:
        waiting = {site: why or "working" for site, why in membership.exchange.waiting(kind).items()}
        report(waiting=waiting)
        ask_newcomers(membership, left_s=limit)

    yield from membership.exchange.collect(kind, timeout_s=limit, enough=enough, meanwhile=meanwhile)


def contents_of(membership: Membership, orders: Mapping[Member, RoundOrder]) -> dict[str, RecordDict]:
    """Return a message for each site; sites with the same order share its records, to bound memory."""
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


def expected_tensors(membership: Membership, member: Member) -> tuple[Shapes, Shapes | None]:
    """Return names and shapes of a site's update, and of its own head if it may send one."""
    config = membership.config
    expected = {
        name: torch.Size(shape) for name, shape in expected_shapes(membership.shared, config, member.label_hash).items()
    }
    head = {name: shape for name, shape in expected.items() if name.startswith("head.")}
    return expected, head if sends_own_head(config) else None
