"""Replies of the site's app: received from the SuperNode, judged, and then sent to the coordinator."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Error, MetricRecord, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from cdtl_core.deploy.egress_filter import refusals
from cdtl_core.deploy.egress_filter.asks import Ask, Asks
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.egress_filter.inbox import Inbox, Parcel
from cdtl_core.deploy.egress_filter.judge import Judged, judge, own_of
from cdtl_core.deploy.egress_filter.outbox import Outbox, packed
from cdtl_core.deploy.egress_filter.runs import Runs
from cdtl_core.deploy.egress_filter.witness import LedgerWitness
from cdtl_core.deploy.used import note_answer
from cdtl_core.errors import CdtlError, PrivacyError
from cdtl_core.federation.egress import EgressManifest, limit_of
from cdtl_core.federation.packing import records_of
from cdtl_core.system.foreign import get_logger

__all__ = ["Replies"]

_log = get_logger("cdtl.filter")
_AGAIN_S = 60.0


class Replies:
    """Handles replies from the SuperNode's push to the outbox; each message of the coordinator is answered once."""

    def __init__(
        self, home: Path, runs: Runs, asks: Asks, outbox: Outbox, log: EgressLog, clock: Callable[[], float] = time.time
    ) -> None:
        self._home, self._runs, self._asks, self._outbox, self._log, self._clock = home, runs, asks, outbox, log, clock
        self._witness = LedgerWitness(home)
        self._inbox, self._one_at_a_time = Inbox(), asyncio.Lock()
        self._refused_at: dict[int, float] = {}

    async def answer_lost(self) -> None:
        """Tell the coordinator about messages whose replies were lost in a restart of the filter or the SuperNode."""
        self._inbox = Inbox()
        for ask in self._asks.waiting():
            await self.post(ask, refusals.RESTARTED, "error", "the filter or the SuperNode was restarted")

    async def push_messages(self, body: bytes) -> PushMessagesResponse:
        """Begin to receive a reply; an error reply is already complete."""
        request = PushMessagesRequest.FromString(body)
        if (len(request.messages_list), len(request.message_object_trees)) != (1, 1):
            raise PrivacyError("a request push-messages does not hold one reply: nothing of it leaves.")
        reply, tree = request.messages_list[0], request.message_object_trees[0]
        ask = self._asks.get(reply.metadata.reply_to_message_id)
        if ask is None:
            self._log.note("refused", request="push-messages", why="a reply to no open message")
            return PushMessagesResponse()
        if reply.HasField("error"):
            await self._post_error(ask, reply)
            return PushMessagesResponse()
        known = self._runs.get(ask.run_id)
        approval = self._runs.verdict(known).approved if known else None
        if approval is None:
            await self.post(ask, refusals.NOT_APPROVED, "error", "the approval was withdrawn")
            return PushMessagesResponse()
        names = {part.object_id for part in iterate_object_tree(tree)}
        limit = limit_of(approval.egress, ask.message_type)
        session = self._inbox.open(ask, tree.object_id, names, limit)
        return PushMessagesResponse(objects_to_push=sorted(names), session_id=session)

    async def _post_error(self, ask: Ask, reply: Any) -> None:
        error = Error(reply.error.code, reply.error.reason)
        told = refusals.passing(error)
        if told != (error.code, error.reason):
            _log.error("an error of the site's app was replaced by a fixed sentence: %d %s", error.code, error.reason)
        await self.post(ask, told, "error", "the site's app failed")

    async def push_object(self, body: bytes) -> PushObjectResponse:
        """Receive one object of a reply; after the last one the reply is judged."""
        request = PushObjectRequest.FromString(body)
        parcel = self._inbox.put(request.session_id, request.object_id, request.object_content)
        if parcel is None:
            return PushObjectResponse(stored=False)
        if parcel.overfull:
            await self.post(parcel.ask, refusals.HELD_BACK, "held back", "more bytes than the egress list allows")
        elif parcel.complete:
            await self._judge(parcel)
        return PushObjectResponse(stored=not parcel.overfull)

    async def _judge(self, parcel: Parcel) -> None:
        ask, known = parcel.ask, self._runs.get(parcel.ask.run_id)
        approval = self._runs.verdict(known).approved if known else None
        if approval is None:
            await self.post(ask, refusals.NOT_APPROVED, "error", "the approval was withdrawn")
            return
        async with self._one_at_a_time:  # Python 3.11's ast, which reads array headers, is not safe in two threads
            judged = await asyncio.to_thread(self._judged, approval.egress, parcel)
        if known and judged.tensors and self._runs.is_private(known):
            why = self._witness.fault(known.key, ask.group_id)
            judged = Judged(None, why) if why else judged
        if judged.content is None:
            _log.error("a reply of run %d was held back: %s", ask.run_id, judged.reason)
            await self.post(ask, refusals.HELD_BACK, "held back", judged.reason)
        else:
            await self.answer(ask, judged.content, judged=judged)

    def _judged(self, manifest: EgressManifest, parcel: Parcel) -> Judged:
        try:
            own = own_of(self._home, parcel.ask)
        except (CdtlError, OSError) as error:
            return Judged(None, str(error))
        return judge(manifest, parcel.ask.message_type, parcel.root, parcel.objects, own)

    async def answer(self, ask: Ask, content: RecordDict, *, judged: Judged | None = None) -> None:
        """Send a reply that passed; it is counted against its approval before it leaves.

        Args:
            ask: The message that it answers.
            content: The reply.
            judged: The verdict.
        """
        count = None
        if ask.order is not None:
            numbers = records_of(content, MetricRecord).get("final") if ask.message_type == "evaluate" else None
            kept: Any = dict(numbers) if numbers else None
            count = partial(note_answer, self._home, ask.approval, ask.order, kept)
        await self.post(ask, content, "approved", judged=judged, count=count)

    async def post(
        self,
        ask: Ask,
        content: RecordDict | tuple[int, str],
        verdict: str,
        why: str = "",
        *,
        judged: Judged | None = None,
        count: Callable[[], None] | None = None,
    ) -> None:
        """Give a reply or refusal to the outbox, with its line for the egress log; a message is answered once.

        A repeated refusal is logged once a minute, so that repeated requests cannot push older lines out of the log.

        Args:
            ask: The message that it answers.
            content: The reply, or an error's code and sentence.
            verdict: For the log.
            why: The reason of a refusal, for the log.

            judged: The verdict over a reply.
            count: Records the use of the approval.
        """
        if not self._asks.leave(ask):
            return
        letter = await asyncio.to_thread(packed, ask, content)
        if content == refusals.NOT_APPROVED and self._repeated(ask.run_id):
            self._outbox.post(letter)
            return
        known = self._runs.get(ask.run_id)
        line = dict(
            run_id=str(ask.run_id),
            run=known.name if known else "",
            type=ask.message_type,
            round=ask.group_id,
            bytes=letter.num_bytes,
            tensors=judged.tensors if judged else 0,
            scalars=judged.scalars if judged else 0,
            message=letter.message.metadata.message_id,
            verdict=verdict,
            **({"why": why, "error": list(content)} if isinstance(content, tuple) else {}),
        )
        self._outbox.post(replace(letter, line=line, count=count))

    def _repeated(self, run_id: int) -> bool:
        """Whether a refusal of this run was logged within the last minute."""
        now = self._clock()
        self._refused_at = {run: at for run, at in self._refused_at.items() if now - at < _AGAIN_S}
        if run_id in self._refused_at:
            return True
        self._refused_at[run_id] = now
        return False
