"""Outgoing replies: sent until the coordinator has them, through outages of its gateway and its SuperLink.

For the SuperNode a reply is delivered when its last object is at the filter. From there the filter delivers it. If the
filter dies before that, the next one tells the coordinator.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict
from flwr.app.message.message import Message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute

from cdtl_core.deploy.egress_filter.asks import Ask, Asks
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.egress_filter.upstream import Answer, Upstream
from cdtl_core.errors import CdtlError, CheckpointError
from cdtl_core.system.foreign import get_logger

__all__ = ["Letter", "Outbox", "packed"]

_BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_LANES = 4
MOST_WAITING = 32
_MOST_SENT = 8
_log = get_logger("cdtl.filter")


@dataclass(frozen=True)
class Letter:
    """A reply, divided into the objects that Flower sends: `tree` of their names, and their bytes.

    `line` is its entry in the egress log, written before it leaves. None: a refusal that was logged a moment ago; its
    bytes are still counted. `count` records its use of the approval before it leaves.
    """

    ask: Ask
    message: Message
    tree: ObjectTree
    objects: dict[str, bytes]
    line: Mapping[str, Any] | None = None
    count: Callable[[], None] | None = None

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all objects."""
        return sum(len(content) for content in self.objects.values())


def packed(ask: Ask, content: RecordDict | tuple[int, str]) -> Letter:
    """Return the reply with this content, or this error, ready to send; slow for large ones."""
    message = ask.reply(content)
    with no_object_id_recompute():
        objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        return Letter(ask, message, get_object_tree(message), objects)


class Outbox:
    """A queue of replies and the task that delivers them in order; `room` bounds their bytes in memory."""

    def __init__(
        self,
        upstream: Upstream,
        asks: Asks,
        log: EgressLog,
        room: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._room = room
        self._upstream, self._asks, self._log, self._clock = upstream, asks, log, clock
        self._queue: asyncio.Queue[Letter] = asyncio.Queue()
        self._waiting: dict[int, int] = {}

    @property
    def crowded(self) -> bool:
        """Whether too many replies wait to take another message."""
        return len(self._waiting) >= MOST_WAITING

    def full(self, num_bytes: int) -> str:
        """Return why there is no room for another reply of at most `num_bytes`; empty if there is."""
        waiting = sum(self._waiting.values())
        if waiting + num_bytes <= self._room:
            return ""
        return (
            f"{len(self._waiting)} replies of {waiting / 1e6:.0f} MB wait for the coordinator, the next may take "
            f"{num_bytes / 1e6:.0f} MB, and room_mb in site.toml is {self._room / 1e6:.0f}: nothing more is trained "
            "until they have left."
        )

    def post(self, letter: Letter) -> None:
        """Log a reply and queue it for delivery."""
        self._waiting[id(letter)] = letter.num_bytes
        self._queue.put_nowait(letter)

    async def run(self) -> None:
        """Deliver forever; no disk fault ends this."""
        while True:
            letter = await self._queue.get()
            try:
                async with asyncio.timeout(self._time_left(letter.ask)):
                    await self._write_line(letter)
                    outcome = await self._deliver(letter)
            except TimeoutError:
                outcome = "expired"
            except Exception:
                _log.exception("a reply could not be delivered")
                outcome = "failed"
            del self._waiting[id(letter)]
            self._asks.close(letter.ask)
            if letter.line is not None:
                self._note_outcome(letter, outcome)
            if outcome != "delivered":
                _log.warning("the reply to run %d is lost: %s", letter.ask.run_id, outcome)

    async def _write_line(self, letter: Letter) -> None:
        """Write the log line and the count; the reply waits until the disk takes both."""
        line = letter.line
        if letter.count is not None:
            await self._until_written(letter, letter.count)
        if line is not None:
            await self._until_written(letter, lambda: self._log.write("reply", **line))

    async def _until_written(self, letter: Letter, write: Callable[[], None]) -> None:
        for pause in itertools.chain(_BACKOFF_S, itertools.repeat(_BACKOFF_S[-1])):
            try:
                write()
                return
            except (CdtlError, OSError) as error:
                _log.error("the reply to run %d waits for the disk: %s", letter.ask.run_id, error)
            await asyncio.sleep(pause)

    def _note_outcome(self, letter: Letter, outcome: str) -> None:
        with suppress(CheckpointError):  # a count stays, even if the line is missing
            self._log.flush()
        self._log.note("outcome", message=letter.message.metadata.message_id, outcome=outcome)

    def _time_left(self, ask: Ask) -> float:
        return max(ask.created_at + ask.ttl - self._clock(), 0.0)

    async def _deliver(self, letter: Letter) -> str:
        """Send the whole reply, from the start again if the coordinator lost the push session; return the outcome."""
        request = PushMessagesRequest(
            node=Node(node_id=letter.ask.dst_node_id),
            messages_list=[message_to_proto(remove_content_from_message(letter.message))],
            message_object_trees=[letter.tree],
            clientapp_runtime_list=[0.0],  # the training time depends on the patients, so it is not sent
        ).SerializeToString()
        for attempt in itertools.count():
            answer = await self._insist("push-messages", request)
            if answer.status != 200:
                return f"refused with {answer.status}"
            told = PushMessagesResponse.FromString(answer.content)
            if attempt == 0 and not told.objects_to_push:
                return "not accepted"
            outcome = await self._push_objects(letter, told)
            if outcome != "again":
                return outcome
            if attempt + 1 >= _MOST_SENT:
                break
            await asyncio.sleep(_BACKOFF_S[0])
        return f"taken and asked for again {_MOST_SENT} times"

    async def _push_objects(self, letter: Letter, told: PushMessagesResponse) -> str:
        """Send all objects that the coordinator lacks, a few at a time."""
        lanes = asyncio.Semaphore(_LANES)
        pushes = (self._push_object(letter, told.session_id, name, lanes) for name in set(told.objects_to_push))
        outcomes = await asyncio.gather(*pushes)
        return next((outcome for outcome in outcomes if outcome != "delivered"), "delivered")

    async def _push_object(self, letter: Letter, session: str, name: str, lanes: asyncio.Semaphore) -> str:
        if name not in letter.objects:
            return "asked for an object that the reply does not have"
        request = PushObjectRequest(
            node=Node(node_id=letter.ask.dst_node_id),
            run_id=letter.ask.run_id,
            session_id=session,
            object_id=name,
            object_content=letter.objects[name],
        )
        async with lanes:
            answer = await self._insist("push-object", request.SerializeToString())
        if answer.status != 200:
            return f"refused with {answer.status}"
        return "delivered" if PushObjectResponse.FromString(answer.content).stored else "again"

    async def _insist(self, name: str, body: bytes) -> Answer:
        """Send until there is a final answer; a 401 is retried, because a corrected clock may fix it."""
        for tries in itertools.count():
            answer = await self._upstream.send(name, body)
            if not answer.passing and (answer.status != 401 or tries >= len(_BACKOFF_S)):
                return answer
            await asyncio.sleep(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
        raise AssertionError("unreachable")
