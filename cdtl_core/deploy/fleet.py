"""The app behind the coordinator's port: Flower's fleet routes for admitted sites, and a health answer for all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cdtl_core.deploy.access_log import AccessLog, LoggedApp, Visit
from cdtl_core.deploy.allowance import Books
from cdtl_core.deploy.deliveries import Deliveries
from cdtl_core.deploy.door import FLEET_ROUTES, REQUEST_HEADERS, Refusal, check_head, drain, read_body
from cdtl_core.deploy.gateway_config import GatewayConfig
from cdtl_core.deploy.identity import check_member, member_of
from cdtl_core.deploy.inspection import Inspector, Settled
from cdtl_core.deploy.link_client import Answer, LinkClient
from cdtl_core.deploy.members import Member, MemberBook
from cdtl_core.deploy.rate import RateLimit
from cdtl_core.deploy.seen import SeenSites

__all__ = ["Fleet"]

_LINGER_BYTES, _LINGER_S = 16 * 1024 * 1024, 5.0
_LINGER_BYTES_OF_STRANGER = 64 * 1024
_LATE_S = 3.0  # a health probe waits 5 s
_PROTOBUF = "application/protobuf"


class Fleet:
    """The routes, and what they share."""

    def __init__(self, config: GatewayConfig, book: MemberBook, log: AccessLog, link: LinkClient) -> None:
        self._limits = config.limits
        self._book = book
        self._log = log
        self._link = link
        self._seen = SeenSites(config.folder)
        self._deliveries = Deliveries(config.folder)
        self._inspector = Inspector(Books(config.folder), self._deliveries)
        self._of_site = RateLimit(config.limits.requests_per_minute_of_site)
        self._strangers = RateLimit(config.limits.requests_per_minute_of_address)

    def app(self) -> LoggedApp:
        """Return the ASGI application."""
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/v1/fleet/{name}", self._fleet, methods=["POST"]),
        ]
        handlers = {404: self._nowhere, 405: self._nowhere, Refusal: _refused}
        app = Starlette(routes=routes, exception_handlers=cast(Any, handlers), lifespan=self._lifespan)
        app.router.redirect_slashes = False
        return LoggedApp(self._paced(app), self._log, self._limits.request_s)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        keeping = [asyncio.create_task(one) for one in (self._seen.keep(), self._log.keep(), self._link.watch())]
        try:
            yield
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await self._link.close()
            self._log.close()

    def _paced(self, app: ASGIApp) -> ASGIApp:
        """Answer strangers above the rate late instead of refusing them, which slows them down and costs nothing."""

        async def paced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["state"]["stranger"] and self._strangers.wait(scope["client"][0]):
                await asyncio.sleep(_LATE_S)
            await app(scope, receive, send)

        return paced

    async def _fleet(self, request: Request) -> Response:
        name = request.path_params["name"]
        visit: Visit = request.state.visit
        if name not in FLEET_ROUTES:
            raise Refusal(404, "unknown path")
        member = member_of(self._book, request.state.client_key)
        visit.site = member.site
        if seconds := self._of_site.wait(member.site):
            await asyncio.sleep(_LATE_S)
            raise Refusal(503, "too many requests", retry_after=seconds)
        key = check_member(self._book, member, request.headers)
        check_head(request)
        async with self._link.turn(member.site):
            try:
                answer = await self._forwarded(name, member, key, request)
            except Settled as known:
                visit.refused = known.reason
                return Response(known.content, 200, media_type=_PROTOBUF)
        if answer.status == 200:
            self._seen.note(member.site)
        return Response(answer.content, answer.status, media_type=answer.media_type)

    async def _forwarded(self, name: str, member: Member, key: str, request: Request) -> Answer:
        body = await read_body(request, FLEET_ROUTES[name], self._limits.body_s)
        passed = self._inspector.check(name, member, key, body)
        headers = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
        answer = await self._link.call(member.site, f"/v1/fleet/{name}", passed.content, headers)
        if answer.status == 200 and self._inspector.learn(name, member.site, passed, answer.content):
            await self._deliveries.save(member.site)
        return answer

    async def _health(self, request: Request) -> Response:
        """Tell strangers the result of the last probe of the SuperLink; this call makes no probe."""
        check_head(request)
        return PlainTextResponse("ok") if self._link.healthy else PlainTextResponse("SuperLink not healthy", 503)

    async def _nowhere(self, request: Request, _: Exception) -> Response:
        return await _refused(request, Refusal(404, "unknown path"))


async def _refused(request: Request, refusal: Refusal) -> Response:
    visit: Visit = request.state.visit
    visit.refused = refusal.reason
    if not visit.body_complete and not refusal.reason.startswith("slow"):
        most = _LINGER_BYTES_OF_STRANGER if request.state.stranger else _LINGER_BYTES
        await drain(request, most, _LINGER_S)
    headers = {} if visit.body_complete else {"connection": "close"}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(refusal.retry_after)
    return Response(refusal.told, refusal.status, headers, media_type=refusal.media_type)
