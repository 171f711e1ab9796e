"""HTTP side of the egress filter, called by the SuperNode. Every other path is answered with 404."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from flwr.proto.fleet_pb2 import ActivateNodeResponse, DeactivateNodeRequest, PullMessagesResponse
from google.protobuf.message import DecodeError, Message
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cdtl_core.config.settings import load_site
from cdtl_core.deploy.egress_filter.admission import Admission
from cdtl_core.deploy.egress_filter.asks import Ask, Asks
from cdtl_core.deploy.egress_filter.config import FilterConfig
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.egress_filter.outbox import Outbox
from cdtl_core.deploy.egress_filter.patience import Patience
from cdtl_core.deploy.egress_filter.replies import Replies
from cdtl_core.deploy.egress_filter.requests import FORWARDED, MAX_REQUEST, rebuilt
from cdtl_core.deploy.egress_filter.runs import KnownRun, Runs
from cdtl_core.deploy.egress_filter.seal import Seal
from cdtl_core.deploy.egress_filter.signing import Signer, load_signer
from cdtl_core.deploy.egress_filter.status import Status
from cdtl_core.deploy.egress_filter.upstream import Answer, Upstream, open_client
from cdtl_core.deploy.link import Link
from cdtl_core.deploy.pending import pending
from cdtl_core.errors import CdtlError, PrivacyError
from cdtl_core.system.foreign import get_logger

__all__ = ["build_app"]

_MAX_SMALL = 64 * 1024
_TICK_S, _PENDING_TICKS = 1.0, 30
_TRAFFIC_EVERY_S = 60.0
_FAREWELL_S = 2.0
_log = get_logger("cdtl.filter")


def build_app(config: FilterConfig, seal: Seal) -> Starlette:
    """Build the filter as an ASGI app; its background tasks run while the app runs.

    Raises:
        ConfigError: A certificate cannot be used.
    """
    client, signer = open_client(config), load_signer(config.site_key)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        filter = EgressFilter(config, client, signer, seal)
        app.state.filter = filter
        async with client:
            tasks = [asyncio.create_task(filter.outbox.run()), asyncio.create_task(filter.keep_books())]
            filter.recall()
            await filter.replies.answer_lost()
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                with suppress(TimeoutError):
                    await asyncio.wait_for(filter.end_session(), _FAREWELL_S)
                filter.close_books()

    async def fleet(request: Request) -> Response:
        filter: EgressFilter = request.app.state.filter
        return await filter.serve(request)

    return Starlette(routes=[Route("/v1/fleet/{name}", fleet, methods=["POST"])], lifespan=lifespan)


class EgressFilter:
    """One site's egress filter: requests of the SuperNode, their forwarding, and the answers."""

    def __init__(
        self,
        config: FilterConfig,
        client: httpx.AsyncClient,
        signer: Signer,
        seal: Seal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._clock, self._pass = config.home, clock, seal.node_pass
        self._log, self._status = EgressLog(config.home), Status(config.home)
        self._asks = Asks(config.home)
        self._upstream = Upstream(client, self._log, self._status, signer)
        self._runs = Runs(config.home, config.settings, self._upstream, seal, Link(config.link, config.link_mode))
        room = load_site(config.settings).room_mb * 1_000_000
        self.outbox = Outbox(self._upstream, self._asks, self._log, room)
        self.replies = Replies(config.home, self._runs, self._asks, self.outbox, self._log)
        self._admission = Admission(
            config.home, self._runs, self._asks, self.replies, self.outbox, self._upstream, self._status
        )
        self._patience = Patience(config.hold_s)
        self._handlers = {
            "get-run": self._get_run,
            "get-fab": self._get_fab,
            "pull-object": self._pull_object,
            "confirm-message-received": self._confirm,
            "push-messages": self._push_messages,
            "push-object": self._push_object,
        }

    async def serve(self, request: Request) -> Response:
        """Answer one request of the SuperNode."""
        name = request.path_params["name"]
        if name not in FORWARDED and name not in self._handlers and name != "pull-messages":
            return Response("not found", 404)
        if not self._pass.admits(request.headers):
            return Response("this filter serves its own node only", 401)
        body = await _body(request, MAX_REQUEST if name.startswith("push-") else _MAX_SMALL)
        if body is None:
            return Response("too large", 413)
        try:
            if name == "pull-messages":
                answer = await self._pull_messages(body, request.is_disconnected)
            else:
                answer = await self._handlers.get(name, lambda b: self._forward(name, b))(body)
        except (PrivacyError, DecodeError) as error:
            self._log.note("refused", request=name, why=str(error))
            return Response("refused", 400)
        except Exception:
            _log.exception("a request %s failed in the filter", name)
            return Response("the filter failed", 503)
        return Response(answer.content, answer.status, media_type=answer.media_type)

    def recall(self) -> None:
        """Restore what an earlier filter left open."""
        self._asks.recall()

    async def keep_books(self) -> None:
        """Write state and counts while the filter runs; a full disk is logged and retried."""
        for tick in itertools.count():
            if tick % _PENDING_TICKS == 0:
                self._note_pending()
            self._write_books(every_s=_TRAFFIC_EVERY_S)
            await asyncio.sleep(_TICK_S)

    def close_books(self) -> None:
        """Write the remaining state and counts."""
        self._status.note(connected=False)
        self._write_books(force=True)

    def _write_books(self, *, every_s: float = 0.0, force: bool = False) -> None:
        """Write each of the files, even if others fail."""
        self._asks.keep()
        books: tuple[Callable[[], None], ...] = (
            lambda: self._log.flush(every_s=every_s),
            lambda: self._status.write(force=force),
        )
        for write in books:
            try:
                write()
            except (CdtlError, OSError) as error:
                _log.error("the filter's state cannot be written: %s", error)

    def _note_pending(self) -> None:
        try:
            self._status.note(pending=list(pending(self._home)))
        except OSError as error:
            _log.error("the runs that wait for approval cannot be listed: %s", error)

    async def _forward(self, name: str, body: bytes) -> Answer:
        request = rebuilt(name, body)
        if name == "activate-node":
            await self.end_session()
            request.public_key = self._upstream.public_key
        answer = await self._upstream.send(name, request.SerializeToString())
        if name == "activate-node":
            await self._note_activation(answer)
        if name == "deactivate-node" and answer.status == 200:
            self._status.note(node_id=None)
        return answer

    async def end_session(self) -> None:
        """Close the session that a killed SuperNode left open; otherwise a new session is refused."""
        node_id = self._status.node_id
        if node_id:
            request = DeactivateNodeRequest(node_id=int(node_id)).SerializeToString()
            if (await self._upstream.send("deactivate-node", request)).status == 200:
                self._status.note(node_id=None)

    async def _note_activation(self, answer: Answer) -> None:
        if answer.status == 200:  # a SuperNode that starts does not know earlier messages
            await self.replies.answer_lost()
            self._status.note(node_id=str(ActivateNodeResponse.FromString(answer.content).node_id), last_refusal=None)
            with suppress(CdtlError):  # at once: after a kill, the next filter must find this session
                self._status.write(force=True)
        elif not answer.passing:
            why = f"{answer.status}: {answer.content[:300].decode(errors='replace')}"
            self._status.note(last_refusal={"time": round(self._clock(), 1), "why": why})

    async def _get_run(self, body: bytes) -> Answer:
        return _protobuf(self._known(rebuilt("get-run", body).run_id).run)

    async def _get_fab(self, body: bytes) -> Answer:
        return _protobuf(self._runs.sealed_bundle(self._known(rebuilt("get-fab", body).run_id)))

    def _known(self, run_id: int) -> KnownRun:
        """Return a run for which a message came; the coordinator is not asked for other runs."""
        known = self._runs.get(run_id)
        if known is None:
            raise PrivacyError("the SuperNode asks for a run without a message: the request is refused.")
        return known

    async def _confirm(self, body: bytes) -> Answer:
        self._admission.check_confirmed(rebuilt("confirm-message-received", body))
        return await self._forward("confirm-message-received", body)

    async def _pull_object(self, body: bytes) -> Answer:
        return await self._admission.pull_object(rebuilt("pull-object", body))

    async def _pull_messages(self, body: bytes, gone: Callable[[], Awaitable[bool]]) -> Answer:
        """Return the next message; waits while the SuperNode is connected.

        A SuperNode that asks for the next message while it owes a reply has dropped its message, for example because
        the run ended. From then on it would push each reply one message late. The answer 401 ends it, the site's
        service starts it again, and what it owed is answered then.
        """
        if self._asks.waiting():
            _log.warning("the SuperNode owes a reply and asks for the next message: it is out of step and is restarted")
            return Answer(401)
        request, asked_at = rebuilt("pull-messages", body), self._patience.now()
        while True:
            answer = await self._pull_once(request)
            if answer.content and await gone():
                await self.replies.answer_lost()
            pause = self._patience.pause(asked_at)
            if answer.status != 200 or answer.content or pause is None:
                return answer
            await asyncio.sleep(pause)
            if await gone():
                return answer  # the SuperNode has gone, so nothing more is fetched

    async def _pull_once(self, request: Any) -> Answer:
        """Hand over messages of approved runs, and answer all others for the SuperNode.

        If the transfer of a message was cut, Flower counts it as delivered although it is not known here. Then the
        SuperNode is restarted: its new session makes the server ask again.
        """
        if self.outbox.crowded:  # a message that is not taken waits at the coordinator
            return _protobuf(PullMessagesResponse())
        answer = await self._upstream.send("pull-messages", request.SerializeToString())
        if answer.uncertain:
            _log.warning("an answer to a request for messages was lost: the SuperNode begins a new session")
            return Answer(401)
        if answer.status != 200:
            return answer
        told, passed = PullMessagesResponse.FromString(answer.content), PullMessagesResponse()
        for message, tree in zip(told.messages_list, told.message_object_trees, strict=True):
            if await self._admission.admit(Ask.of(message.metadata), tree, request.node):
                passed.messages_list.append(message)
                passed.message_object_trees.append(tree)
            self._patience.stir()
        return _protobuf(passed)

    async def _push_messages(self, body: bytes) -> Answer:
        self._patience.stir()
        return _protobuf(await self.replies.push_messages(body))

    async def _push_object(self, body: bytes) -> Answer:
        return _protobuf(await self.replies.push_object(body))


async def _body(request: Request, limit: int) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def _protobuf(message: Message | bytes) -> Answer:
    content = message if isinstance(message, bytes) else message.SerializeToString()
    return Answer(200, content, "application/protobuf")
