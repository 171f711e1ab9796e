"""Messages to named sites and their replies, one at a time, with a wait that ends and names whom it waited for."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from cdtl_core.federation.wire import num_bytes

__all__ = ["Reply", "ask", "await_nodes"]

_POLL_S = 0.25
_log = logging.getLogger("cdtl.server")


@dataclass(frozen=True)
class Reply:
    """A site's answer: its content, or why there is none.

    Attributes:
        site: Whom the message went to.
        content: None if the site failed or did not answer in time.
        fault: A sentence, empty if `content` is there.
        bytes_received: By the site: size of the message, theta0 included.
        theta0_bytes: Of these, theta0's.
        bytes_sent: By the site: size of its reply.
    """

    site: str
    content: RecordDict | None
    fault: str
    bytes_received: int
    theta0_bytes: int
    bytes_sent: int


def await_nodes(grid: Grid, wanted: int, *, timeout_s: float) -> list[int]:
    """Ids of the connected nodes, as soon as there are `wanted` of them or the time is over."""
    deadline = time.monotonic() + timeout_s
    while len(found := list(grid.get_node_ids())) < wanted and time.monotonic() < deadline:
        _log.info("waiting for sites: %d of %d connected", len(found), wanted)
        time.sleep(_POLL_S)
    return found


def ask(
    grid: Grid, nodes: Mapping[str, int], contents: Mapping[str, RecordDict], kind: str, *, group: str, timeout_s: float
) -> Iterator[Reply]:
    """Send each site its content and yield the replies as they come; silent sites last, each with its fault.

    Args:
        grid: Flower's.
        nodes: Site to Flower node id.
        contents: Site to what it is sent.
        kind: Flower's message type, e.g. ``train``.
        group: The round, for Flower's records.
        timeout_s: How long to wait for all of them together.
    """
    sizes = {site: (num_bytes(content), _theta0_bytes(content)) for site, content in contents.items()}
    sites = list(contents)
    messages = [Message(contents[site], nodes[site], kind, ttl=timeout_s, group_id=group) for site in sites]
    waiting = dict(zip(grid.push_messages(messages), sites, strict=True))
    deadline = time.monotonic() + timeout_s
    while waiting and time.monotonic() < deadline:
        replies = list(grid.pull_messages(list(waiting)))
        for message in replies:
            site = waiting.pop(message.metadata.reply_to_message_id, None)
            if site is not None:
                yield _reply(site, message, sizes[site])
        if waiting and not replies:
            time.sleep(_POLL_S)
    for site in waiting.values():
        _log.warning("no answer from %s within %.0f s", site, timeout_s)
        yield Reply(site, None, f"no answer within {timeout_s:.0f} s", *sizes[site], 0)


def _reply(site: str, message: Message, sizes: tuple[int, int]) -> Reply:
    if message.has_error():
        return Reply(site, None, message.error.reason or f"error code {message.error.code}", *sizes, 0)
    return Reply(site, message.content, "", *sizes, num_bytes(message.content))


def _theta0_bytes(content: RecordDict) -> int:
    return content["theta0"].count_bytes() if "theta0" in content else 0
