"""The gateway's access log: one JSON line for each request and each failed handshake."""

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
    """Chained JSON lines in FOLDER/logs/access.log; ten megabytes per file, the last five files are kept.

    A line has `time` (UTC, ISO), `client`, and for a request `site`, `route`, `status`, `bytes_in`, `bytes_out`, `ms`.
    `refused` gives the reason of a refusal. Headers are never written, because signatures could be used again.

    For requests of strangers, one line a second is written per address and two for all addresses together, so that a
    flood cannot push out older lines (26 MB a day at most). The next line counts the omitted ones in `left_out`.

    Lines can come by the hundred a second, so they are synced only once a second (`keep`): a power cut loses at most
    that second. A disk fault stops no request: the line is lost, and a later line counts the lost ones in `lost`.
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
                _log.error("requests are served but not logged: %s", error)
            self._lost += 1

    async def keep(self) -> None:
        """Make the lines durable once a second, until cancelled."""
        while True:
            await asyncio.sleep(_SYNC_S)
            await asyncio.to_thread(self._lines.sync)

    def close(self) -> None:
        """Sync the last lines and report lost ones."""
        if self._lost:
            self.write()
        self._lines.sync()

    def open(self) -> None:
        """Check that the log can be written.

        Raises:
            ConfigError: It cannot.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab"):
                pass
        except OSError as error:
            raise ConfigError(
                f"{self._path} cannot be written ({error.strerror}): check its permissions and the free space."
            ) from None


@dataclass
class Visit:
    """Facts about a request in progress; handlers add `site` and `refused`."""

    client: str
    route: str
    site: str | None = None
    refused: str | None = None
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    body_complete: bool = False


class LoggedApp:
    """Wrap an app: log each request and end it within `seconds`. Handlers find its `Visit` in request.state.

    The line is written just before the last byte of the answer, so a client that has the answer finds the line.
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
            visit.refused = "client disconnected"
        except Refusal as refusal:  # the answer had begun: it can only be cut off
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
