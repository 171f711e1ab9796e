"""Messages to sites and their replies: sent again to a site that was lost and returned, up to a limit."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from cdtl_core.federation.journal import Traffic
from cdtl_core.federation.wire import initial_weights_bytes, num_bytes
from cdtl_core.system.foreign import get_logger, visible

__all__ = ["PROVISIONAL", "Exchange", "Reply", "pause", "shorten_waits"]

PROVISIONAL = "node "
"""Prefix of the name of a node that has not introduced itself."""
_POLL_S = 0.25
_PART_S = 0.05
_LOOK_S = 1.0
_LOST = {
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
}
_MOST_TRIES = 5
_MOST_REASON = 200  # characters of a site's reason; our own sentences are shorter
_log = get_logger("cdtl.server")


@dataclass(frozen=True)
class Reply:
    """A site's answer: its content, or why there is none.

    Attributes:
        site: Recipient of the message.
        kind: Flower's message type.
        content: None if the site failed or did not answer in time.
        fault: A sentence, empty if there is content.
        traffic: Sizes of message and reply, and the duration.
    """

    site: str
    kind: str
    content: RecordDict | None
    fault: str
    traffic: Traffic


@dataclass
class _Asked:
    """A message that waits for its answer; `ids` are its copies, `session` the node's at the last copy.

    `lost` says why it must be sent again; empty while it is in progress.
    """

    site: str
    kind: str
    content: RecordDict
    group: str
    deadline: float
    ids: set[str] = field(default_factory=set)
    session: str = ""
    tries: int = 0
    lost: str = "not connected"
    sent_at: float = 0.0


class Exchange:
    """Messages and answers over Flower's grid.

    A site is known by the name under which its node was registered. In simulations nodes have no names, and a site is
    known by a number until it has introduced itself (`rename`). A node that restarts begins a new session and is asked
    again.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._asked: dict[str, _Asked] = {}
        self._names: dict[int, str] = {}
        self._nodes: dict[str, tuple[int, str]] = {}
        self._looked = float("-inf")

    def connected(self) -> dict[str, int]:
        """Return the connected nodes by site; looked up at most once a second."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self.look()
        return {site: node for site, (node, _) in self._nodes.items()}

    def look(self) -> None:
        """Ask Flower now which nodes are connected."""
        found = {node.node_id: node for node in self._grid.get_nodes()}
        self._nodes = {self._name(node): (number, node.last_activated_at) for number, node in found.items()}
        self._looked = time.monotonic()

    def rename(self, provisional: str, site: str) -> None:
        """Replace the number of a node without a registered name by the name that its site gives."""
        node, session = self._nodes.pop(provisional)
        self._names[node] = site
        self._nodes[site] = (node, session)

    def waiting(self, kind: str) -> dict[str, str]:
        """Return sites without an answer of this kind, each with the reason (empty: it is working)."""
        return {asked.site: asked.lost for asked in self._asked.values() if asked.kind == kind}

    def send(self, site: str, content: RecordDict, kind: str, *, group: str, timeout_s: float) -> None:
        """Send a message to a site; an earlier unanswered one is forgotten.

        Args:
            site: The site.
            content: The message.
            kind: Flower's message type.
            group: The round.
            timeout_s: Time limit of the message.
        """
        asked = _Asked(site, kind, content, group, time.monotonic() + timeout_s)
        self._asked[site] = asked
        self._push(asked)

    def forget(self, kind: str) -> None:
        """Stop waiting for answers of this kind."""
        self._asked = {site: asked for site, asked in self._asked.items() if asked.kind != kind}

    def receive(self) -> list[Reply]:
        """Return new answers; messages to sites that were lost and returned are sent again."""
        self._send_again()
        by_id = {name: asked for asked in self._asked.values() for name in asked.ids}
        replies: list[Reply] = []
        for message in self._grid.pull_messages(list(by_id)) if by_id else ():
            asked = by_id.get(message.metadata.reply_to_message_id)
            if asked is None or self._asked.get(asked.site) is not asked:
                continue
            asked.ids.discard(message.metadata.reply_to_message_id)
            if message.has_error() and message.error.code in _LOST and asked.tries < _MOST_TRIES:
                asked.lost = asked.lost or "lost in this round"
                self._looked = float("-inf")  # the connected sites have changed
                continue
            del self._asked[asked.site]
            replies.append(_reply(asked, message))
        return replies

    def collect(
        self,
        kind: str,
        *,
        timeout_s: float,
        enough: Callable[[Collection[str]], bool],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Iterator[Reply]:
        """Yield answers of one kind as they come, and at the end a fault for each site without an answer.

        It waits for connected sites until the time is over, and for lost sites only while the others are not `enough`.

        Args:
            kind: Flower's message type; answers of other kinds are yielded too but do not count.
            timeout_s: For all of them together.
            enough: Whether these sites' answers are enough.
            meanwhile: Called while there is nothing new.
        """
        deadline, answered = time.monotonic() + timeout_s, set[str]()
        while self.waiting(kind) and time.monotonic() < deadline:
            replies = self.receive()
            for reply in replies:
                if reply.content is not None and reply.kind == kind:
                    answered.add(reply.site)
                yield reply
            if not replies:
                if all(self.waiting(kind).values()) and enough(answered):
                    break
                meanwhile()
                pause()
        for site in self.waiting(kind):
            yield self._silence(self._asked[site], timeout_s)
        self.forget(kind)

    def _silence(self, asked: _Asked, timeout_s: float) -> Reply:
        fault = asked.lost or f"no answer within {timeout_s:.0f} s"
        _log.warning("no answer from %s: %s", asked.site, fault)
        return Reply(asked.site, asked.kind, None, fault, _traffic(asked))

    def _send_again(self) -> None:
        here = self.connected()
        for asked in self._asked.values():
            session = self._nodes.get(asked.site, (0, ""))[1]
            if asked.site not in here:
                asked.lost = asked.lost or "not connected"
            elif asked.lost or session != asked.session:
                self._push(asked)

    def _push(self, asked: _Asked) -> None:
        left = asked.deadline - time.monotonic()
        if asked.site not in self.connected() or left <= 0 or asked.tries >= _MOST_TRIES:
            return
        node, session = self._nodes[asked.site]
        message = Message(asked.content, node, asked.kind, ttl=left, group_id=asked.group)
        for name in self._grid.push_messages([message]):
            if name:
                asked.ids.add(name)
                asked.session, asked.lost, asked.tries = session, "", asked.tries + 1
                asked.sent_at = time.monotonic()

    def _name(self, node: NodeInfo) -> str:
        return node.name or self._names.get(node.node_id, f"{PROVISIONAL}{node.node_id}")


def shorten_waits() -> None:
    """Have Flower's grid ask soon for a part of a reply that is still on its way: at first it waits a whole second.

    The wait doubles with each try, as before.
    """
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.superlink.grid import http_grid  # half a second of a processor, which a simulation does not need

    http_grid.pull_objects = partial(pull_objects, initial_backoff=_PART_S)  # type: ignore[attr-defined]


def pause() -> None:
    """Wait before the next look."""
    time.sleep(_POLL_S)


def _reply(asked: _Asked, message: Message) -> Reply:
    if message.has_error():
        return Reply(asked.site, asked.kind, None, _fault(message), _traffic(asked))
    seconds = time.monotonic() - asked.sent_at
    traffic = replace(_traffic(asked), bytes_sent=num_bytes(message.content), seconds=seconds)
    return Reply(asked.site, asked.kind, message.content, "", traffic)


def _fault(message: Message) -> str:
    code, reason = message.error.code, message.error.reason
    if code == ErrorCode.INVALID_FAB:
        return "it has not approved this run"
    if code in _LOST:
        return "it was lost again and again"
    return visible(reason, _MOST_REASON) or f"error code {code}"


def _traffic(asked: _Asked) -> Traffic:
    """Return the traffic of a message; zero if it was never sent."""
    return Traffic(num_bytes(asked.content), initial_weights_bytes(asked.content)) if asked.tries else Traffic()
