"""The app behind the coordinator's port: Flower's fleet routes for admitted sites, a health answer for all, no more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cdtl_core.deploy.access_log import AccessLog, LoggedApp, Visit
from cdtl_core.deploy.door import FLEET_ROUTES, Refusal, drain, forward
from cdtl_core.deploy.gateway_config import GatewayConfig
from cdtl_core.deploy.identity import check_member, member_of
from cdtl_core.deploy.members import MemberBook
from cdtl_core.deploy.rate import RateLimit
from cdtl_core.deploy.seen import SeenSites

__all__ = ["Fleet"]

_LINGER_BYTES, _LINGER_S = 16 * 1024 * 1024, 5.0


class Fleet:
    """The routes, and what they share."""

    def __init__(self, config: GatewayConfig, book: MemberBook, log: AccessLog, upstream: httpx.AsyncClient) -> None:
        self._limits = config.limits
        self._book = book
        self._log = log
        self._upstream = upstream
        self._seen = SeenSites(config.folder)
        self._of_site = RateLimit(config.limits.requests_per_minute_of_site)
        self._of_address = RateLimit(config.limits.requests_per_minute_of_address)

    def app(self) -> LoggedApp:
        """The ASGI application."""
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/v1/fleet/{name}", self._fleet, methods=["POST"]),
        ]
        nowhere = {404: self._nowhere, 405: self._nowhere}
        app = Starlette(routes=routes, exception_handlers=cast(Any, nowhere), lifespan=self._lifespan)
        app.router.redirect_slashes = False
        return LoggedApp(app, self._log, self._limits.request_s)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        keeping = [asyncio.create_task(self._seen.keep()), asyncio.create_task(self._log.keep())]
        try:
            yield
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await self._upstream.aclose()
            self._log.close()

    async def _fleet(self, request: Request) -> Response:
        try:
            return await self._admitted(request)
        except Refusal as refusal:
            return await _refused(request, refusal)

    async def _admitted(self, request: Request) -> Response:
        name = request.path_params["name"]
        visit: Visit = request.state.visit
        if name not in FLEET_ROUTES:
            raise Refusal(404, "unknown path")
        _pace(self._of_address, visit.client)
        member = member_of(self._book, request.state.client_key)
        visit.site = member.site
        check_member(self._book, member, request.headers)
        _pace(self._of_site, member.site)
        self._seen.note(member.site)
        return await forward(
            self._upstream, request, f"/v1/fleet/{name}", FLEET_ROUTES[name], seconds=self._limits.body_s
        )

    async def _health(self, request: Request) -> Response:
        try:
            _pace(self._of_address, request.state.visit.client)
            answer = await self._upstream.get("/health", timeout=3)
        except httpx.HTTPError:
            return await _refused(request, Refusal(503, "upstream down"))
        except Refusal as refusal:
            return await _refused(request, refusal)
        return PlainTextResponse("ok") if answer.is_success else PlainTextResponse("SuperLink not healthy", 503)

    async def _nowhere(self, request: Request, _: Exception) -> Response:
        return await _refused(request, Refusal(404, "unknown path"))


def _pace(limit: RateLimit, somebody: str) -> None:
    if seconds := limit.wait(somebody):
        raise Refusal(503, "too many requests", retry_after=seconds)


async def _refused(request: Request, refusal: Refusal) -> Response:
    visit: Visit = request.state.visit
    visit.refused = refusal.reason
    if not visit.body_complete and not refusal.reason.startswith("slow"):
        await drain(request, _LINGER_BYTES, _LINGER_S)
    headers = {} if visit.body_complete else {"connection": "close"}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(refusal.retry_after)
    said = refusal.reason.split(":")[0]  # the details are for the log
    return PlainTextResponse(said, refusal.status, headers)
