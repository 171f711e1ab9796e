"""Decides which messages of the coordinator reach the SuperNode: those of approved runs, within the limits.

A refused message is answered by the filter with a fixed sentence. Usage of an approval is written to
``HOME/used/<id>.json`` before the message is handed over, so that no crash loses a count.
"""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

from flwr.app import MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from cdtl_core.deploy.approval_list import Approval
from cdtl_core.deploy.egress_filter import refusals
from cdtl_core.deploy.egress_filter.asks import Ask, Asks
from cdtl_core.deploy.egress_filter.orders import NotThereError, read_order
from cdtl_core.deploy.egress_filter.outbox import Outbox
from cdtl_core.deploy.egress_filter.replies import Replies
from cdtl_core.deploy.egress_filter.runs import KnownRun, Runs
from cdtl_core.deploy.egress_filter.status import Status
from cdtl_core.deploy.egress_filter.upstream import Answer, Upstream
from cdtl_core.deploy.pending import pending
from cdtl_core.deploy.rate import RateLimit
from cdtl_core.deploy.used import note_order
from cdtl_core.errors import CheckpointError, PrivacyError
from cdtl_core.federation.egress import limit_of
from cdtl_core.federation.limits import Order, OverLimitError, kept_answer
from cdtl_core.system.foreign import get_logger

__all__ = ["Admission"]

_FETCH_PAUSES_S = (1.0, 3.0)
_WAIT_S, _AGAIN_S = 8.0, 0.1  # the coordinator announces a message before it stores its objects
_INTRODUCTIONS = 20  # per minute; the coordinator asks every 10 s at most
_log = get_logger("cdtl.filter")


class Admission:
    """Judges messages, and gives the SuperNode only objects of those that passed."""

    def __init__(
        self,
        home: Path,
        runs: Runs,
        asks: Asks,
        replies: Replies,
        outbox: Outbox,
        upstream: Upstream,
        status: Status,
    ) -> None:
        self._home, self._runs, self._asks, self._replies = home, runs, asks, replies
        self._outbox, self._upstream, self._status = outbox, upstream, status
        self._introductions = RateLimit(_INTRODUCTIONS)
        self._read: dict[str, bytes] = {}
        self._named: dict[str, frozenset[str]] = {}

    async def admit(self, ask: Ask, tree: ObjectTree, node: Node) -> bool:
        """Decide whether the SuperNode gets a message; a refused message has been answered.

        Args:
            ask: The message.
            tree: Names of its objects.
            node: The SuperNode.
        """
        known = await self._fetch(ask.run_id, node)
        if isinstance(known, Answer):
            if known.status != 403:  # 403: the run is over and the coordinator does not wait
                await self._refuse(ask, refusals.UNKNOWN_RUN, f"the run cannot be fetched ({known.status})")
            return False
        verdict = self._runs.verdict(known)
        if verdict.approved is None:
            await self._replies.post(ask, refusals.NOT_APPROVED, "error", verdict.reason)
            self._status.note(pending=list(pending(self._home)))
            return False
        if ask.message_type not in verdict.approved.egress.replies:
            await self._refuse(ask, refusals.HELD_BACK, f"messages {ask.message_type!r} have no reply on the list")
            return False
        return await self._admit(ask, tree, node, verdict.approved)

    async def _admit(self, ask: Ask, tree: ObjectTree, node: Node, approval: Approval) -> bool:
        self._read.clear()
        try:
            order = await read_order(ask, tree.object_id, lambda name: self._pull(name, ask, node))
            ask = ask.model_copy(update={"approval": approval.id, "order": order})
            if answer := self._within(ask, order, approval):
                await self._replies.answer(ask, answer)
                return False
        except NotThereError:
            await self._refuse(ask, refusals.RESTARTED, "the message's content did not come in time")
        except CheckpointError as error:  # nothing was counted, so nothing is trained; the coordinator asks again
            await self._refuse(ask, refusals.RESTARTED, str(error))
        except OverLimitError as error:
            await self._refuse(ask, refusals.OVER[error.limit], str(error))
        except PrivacyError as error:
            await self._refuse(ask, refusals.UNREADABLE, str(error))
        else:
            return await self._hand_over(
                ask.model_copy(update={"approval": approval.id, "order": order}), tree, approval
            )
        return False

    def _within(self, ask: Ask, order: Order | None, approval: Approval) -> RecordDict | None:
        """Count an order. Return the earlier answer if this final evaluation was answered before.

        Args:
            ask: The message.
            order: What it asks for.
            approval: The approval of its run.

        Raises:
            OverLimitError: It goes beyond the approval.
            PrivacyError: What was used of the approval is not known.
        """
        if order is None:
            if self._introductions.wait(str(ask.run_id)):
                raise PrivacyError(
                    "the coordinator asks for this site's introduction too often: the message is refused."
                )
            return None
        used = note_order(self._home, approval.id, approval.settings, order)
        kept = kept_answer(used, order)
        return RecordDict({"final": MetricRecord(dict(kept))}) if kept else None

    async def _hand_over(self, ask: Ask, tree: ObjectTree, approval: Approval) -> bool:
        if why := self._outbox.full(limit_of(approval.egress, ask.message_type)):
            await self._refuse(ask, refusals.NO_ROOM, why)
            return False
        self._named = {name: names for name, names in self._named.items() if self._asks.get(name)}
        self._named[ask.message_id] = frozenset(part.object_id for part in iterate_object_tree(tree))
        self._asks.add(ask)
        return True

    async def pull_object(self, request: Any) -> Answer:
        """Return an object of an open message, after a check that its bytes match its name."""
        name = request.object_id
        if not any(name in names for ask, names in self._named.items() if self._asks.get(ask)):
            raise PrivacyError("an object of no open message is asked for: nothing of it leaves.")
        if name in self._read:
            found = PullObjectResponse(object_found=True, object_available=True, object_content=self._read[name])
            return Answer(200, found.SerializeToString(), "application/protobuf")
        answer = await self._upstream.send("pull-object", request.SerializeToString())
        if answer.status != 200:
            return answer
        told = PullObjectResponse.FromString(answer.content)
        if told.object_content and hashlib.sha256(told.object_content).hexdigest() != name:
            _log.error("the coordinator sent an object that does not match its name: it is dropped")
            return Answer(200, PullObjectResponse().SerializeToString(), "application/protobuf")
        return answer

    def check_confirmed(self, request: Any) -> None:
        """Refuse to confirm a message that is not open.

        Raises:
            PrivacyError: It is none.
        """
        if self._asks.get(request.message_object_id) is None:
            raise PrivacyError("the SuperNode confirms a message that is not open: the request is refused.")

    async def _pull(self, name: str, ask: Ask, node: Node) -> bytes:
        """Pull an object for the filter itself, and wait while the coordinator may still store it."""
        if name in self._read:
            return self._read[name]
        request = PullObjectRequest(node=node, run_id=ask.run_id, object_id=name).SerializeToString()
        end = time.monotonic() + _WAIT_S
        while True:
            answer = await self._upstream.send("pull-object", request)
            told = PullObjectResponse.FromString(answer.content) if answer.status == 200 else PullObjectResponse()
            if told.object_found and told.object_available:
                self._read[name] = told.object_content
                return told.object_content
            waits = told.object_found or answer.passing
            if not waits or time.monotonic() > end:
                raise NotThereError
            await asyncio.sleep(_AGAIN_S)

    async def _fetch(self, run_id: int, node: Node) -> KnownRun | Answer:
        for pause in (*_FETCH_PAUSES_S, 0.0):
            known = await self._runs.fetch(run_id, node)
            if not isinstance(known, Answer) or not known.passing:
                break
            await asyncio.sleep(pause)
        return known

    async def _refuse(self, ask: Ask, sentence: tuple[int, str], why: str) -> None:
        _log.warning("a message %r of run %d is refused: %s", ask.message_type, ask.run_id, why)
        await self._replies.post(ask, sentence, "error", why)
