"""Messages to named sites and their replies: sent again to a site that was lost and came back, until a limit."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from cdtl_core.federation.journal import Traffic
from cdtl_core.federation.wire import initial_weights_bytes, num_bytes
from cdtl_core.system.foreign import get_logger, visible

__all__ = ["PROVISIONAL", "Exchange", "Reply", "pause"]

PROVISIONAL = "node "
"""How the name of a node begins that has not said who it is."""
_POLL_S = 0.25
_LOOK_S = 1.0
_LOST = {
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
}
_MOST_TRIES = 5
_MOST_REASON = 200  # characters of what a site says of its failure; our own sentences are shorter
_log = get_logger("cdtl.server")


@dataclass(frozen=True)
class Reply:
    """A site's answer: its content, or why there is none.

    Attributes:
        site: Whom the message went to.
        kind: Flower's message type.
        content: None if the site failed or did not answer in time.
        fault: A sentence, empty if `content` is there.
        traffic: Sizes of message and reply, and how long the answer took.
    """

    site: str
    kind: str
    content: RecordDict | None
    fault: str
    traffic: Traffic


@dataclass
class _Asked:
    """A question that waits for its answer; `ids` are the messages that carried it, `session` the node's at the last.

    `lost` says why it has to be sent again, empty while it is under way.
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
    """Questions and answers over Flower's grid.

    A site is known by the name under which its node was registered, or, in simulations, where nodes have none, by a
    number until it has introduced itself (`rename`). A node that restarts begins a new session: what it had been asked
    is then asked again.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._asked: dict[str, _Asked] = {}
        self._names: dict[int, str] = {}
        self._nodes: dict[str, tuple[int, str]] = {}
        self._looked = float("-inf")

    def connected(self) -> dict[str, int]:
        """Site to node, of the nodes that are connected; looked up at most once a second."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self.look()
        return {site: node for site, (node, _) in self._nodes.items()}

    def look(self) -> None:
        """Ask Flower now which nodes are connected."""
        found = {node.node_id: node for node in self._grid.get_nodes()}
        self._nodes = {self._name(node): (number, node.last_activated_at) for number, node in found.items()}
        self._looked = time.monotonic()

    def rename(self, provisional: str, site: str) -> None:
        """Know a node without a registered name by what its site says it is called."""
        node, session = self._nodes.pop(provisional)
        self._names[node] = site
        self._nodes[site] = (node, session)

    def waiting(self, kind: str) -> dict[str, str]:
        """Sites that still owe an answer of this kind, each with why (empty: it is at work)."""
        return {asked.site: asked.lost for asked in self._asked.values() if asked.kind == kind}

    def send(self, site: str, content: RecordDict, kind: str, *, group: str, timeout_s: float) -> None:
        """Ask a site; what it had not yet answered before is forgotten."""
        asked = _Asked(site, kind, content, group, time.monotonic() + timeout_s)
        self._asked[site] = asked
        self._push(asked)

    def forget(self, kind: str) -> None:
        """Wait no longer for answers of this kind."""
        self._asked = {site: asked for site, asked in self._asked.items() if asked.kind != kind}

    def receive(self) -> list[Reply]:
        """What has come since the last call; questions whose site was lost and is back are sent again."""
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
                self._looked = float("-inf")  # who is connected has changed
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
        """Yield answers of one kind as they come; at the end a fault for each site that gave none.

        Sites that are connected and at work are waited for until the time is over. Sites that are lost are waited for
        only while the others are not `enough`.

        Args:
            kind: Flower's message type; answers of other kinds are yielded too, they do not count.
            timeout_s: For all of them together.
            enough: Whether these sites' answers will do.
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


def pause() -> None:
    """Wait until it is worth asking again."""
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
    """What the question took; nothing if it never went out."""
    return Traffic(num_bytes(asked.content), initial_weights_bytes(asked.content)) if asked.tries else Traffic()
