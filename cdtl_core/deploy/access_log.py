"""Who came and what became of it: one JSON line for each request and each failed handshake."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdtl_core.deploy.door import Refusal
from cdtl_core.deploy.rate import RateLimit
from cdtl_core.deploy.records import access_files
from cdtl_core.errors import CheckpointError, ConfigError
from cdtl_core.system.chained import ChainedLog
from cdtl_core.system.foreign import get_logger

__all__ = ["AccessLog", "LoggedApp", "Visit"]

_LONGEST_PATH = 200
_SYNC_S = 1.0
_log = get_logger(__name__)


class AccessLog:
    """Chained JSON lines in FOLDER/logs/access.log, ten megabytes to a file, the last five files kept.

    A line has `time` (UTC, ISO), `client`, and for a request `site`, `route`, `status`, `bytes_in`, `bytes_out`, `ms`;
    `refused` says in words why a request was refused. Headers are never written: signatures could be used again.
    Of strangers, whether refused or not, one line a second is written for each address and two for all together, so
    that no flood pushes the past out (26 MB a day at most); the next line says in `left_out` how many were not.

    Lines come by the hundred a second, so the disk is asked to keep them once a second only (`keep`): a power cut
    loses at most that second. A fault of the disk stops no request: the line is lost, and a later one says in `lost`
    how many were.
    """

    def __init__(self, folder: Path) -> None:
        self._path = access_files(folder).path
        self._lines = ChainedLog(access_files(folder), sync_s=_SYNC_S)
        self._strangers, self._all_strangers = RateLimit(60), RateLimit(120)
        self._left_out = self._lost = 0

    def write(self, **fields: str | int | None) -> None:
        """Append a line; fields that are None are left out."""
        known = {name: value for name, value in fields.items() if value is not None}
        if "site" not in known and (self._strangers.wait(str(known.get("client"))) or self._all_strangers.wait("")):
            self._left_out += 1
            return
        known |= {name: count for name, count in (("left_out", self._left_out), ("lost", self._lost)) if count}
        try:
            self._lines.append({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **known})
            self._left_out = self._lost = 0
        except CheckpointError as error:
            if not self._lost:
                _log.error("requests are served and not logged: %s", error)
            self._lost += 1

    async def keep(self) -> None:
        """Make the lines durable once a second, until cancelled."""
        while True:
            await asyncio.sleep(_SYNC_S)
            await asyncio.to_thread(self._lines.sync)

    def close(self) -> None:
        """Make the last lines durable, and say what is missing."""
        if self._lost:
            self.write()
        self._lines.sync()

    def open(self) -> None:
        """Make sure that it can be written.

        Raises:
            ConfigError: It cannot.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab"):
                pass
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written ({error.strerror}): check rights and space.") from None


@dataclass
class Visit:
    """What is known of a request while it lasts; handlers add `site` and `refused`."""

    client: str
    route: str
    site: str | None = None
    refused: str | None = None
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    body_complete: bool = False


class LoggedApp:
    """Wrap an app: each request becomes a line and ends within `seconds`; handlers find its `Visit` in request.state.

    The line is written just before the last byte of the answer: who has the answer finds the line.
    """

    def __init__(self, app: ASGIApp, log: AccessLog, seconds: float) -> None:
        self._app = app
        self._log = log
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope["client"] else "?"
        visit = Visit(client, scope["path"][:_LONGEST_PATH])
        scope["state"]["visit"] = visit
        line = _Line(self._log, visit)
        try:
            async with asyncio.timeout(self._seconds):
                await self._app(scope, _counted(receive, visit), line.counted(send))
        except TimeoutError:
            visit.refused = f"slow: the request did not end within {self._seconds:g} s"
            if visit.status is None:
                answer = PlainTextResponse(visit.refused, 503, {"connection": "close"})
                await answer(scope, receive, line.counted(send))
        except ClientDisconnect:
            visit.refused = "went away"
        except Refusal as refusal:  # the answer had begun: all that is left is to cut it off
            visit.refused = refusal.reason
        finally:
            line.write()


class _Line:
    def __init__(self, log: AccessLog, visit: Visit) -> None:
        self._log = log
        self._visit = visit
        self._begun = time.monotonic()
        self._written = False

    def counted(self, send: Send) -> Send:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._visit.status = message["status"]
            else:
                self._visit.bytes_out += len(message.get("body", b""))
                if not message.get("more_body", False):
                    self.write()
            await send(message)

        return counting

    def write(self) -> None:
        if self._written:
            return
        self._written = True
        visit = self._visit
        self._log.write(
            client=visit.client,
            site=visit.site,
            route=visit.route,
            status=visit.status,
            bytes_in=visit.bytes_in,
            bytes_out=visit.bytes_out,
            ms=round(1000 * (time.monotonic() - self._begun)),
            refused=visit.refused,
        )


def _counted(receive: Receive, visit: Visit) -> Receive:
    async def counting() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            visit.bytes_in += len(message.get("body", b""))
            visit.body_complete = not message.get("more_body", False)
        return message

    return counting
