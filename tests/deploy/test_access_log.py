"""The access log, and the times when sites were last seen."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from cdtl_core.deploy.access_log import AccessLog, LoggedApp
from cdtl_core.deploy.seen import SeenSites, last_seen
from cdtl_core.errors import ConfigError
from tests.tables import Tries


def scope() -> dict[str, Any]:
    return {
        "type": "http",
        "client": ("10.0.0.9", 4711),
        "path": "/x" * 500,
        "method": "POST",
        "headers": [],
        "state": {},
    }


async def nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def test_a_request_that_does_not_end_is_answered_and_logged(tmp_path: Path) -> None:
    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    log = AccessLog(tmp_path)
    asyncio.run(LoggedApp(stuck, log, 0.01)(scope(), nothing, send))
    log.close()
    line = json.loads((tmp_path / "logs" / "access.log").read_text())
    assert sent[0]["status"] == line["status"] == 503
    assert line["refused"] == "slow: the request did not end within 0.01 s"
    assert line["client"] == "10.0.0.9"
    assert len(line["route"]) == 200


@pytest.mark.attack("strangers push nothing out of the access log", "1000 requests from 50 addresses")
def test_strangers_cannot_flood_the_past_away(tmp_path: Path, tries: Tries) -> None:
    log = AccessLog(tmp_path)
    for number in range(500):
        log.write(client=f"6.6.6.{number % 50}", refused="unknown path")
        log.write(client=f"6.6.6.{number % 50}", status=200, route="/health")
        tries.add(2)
    log.write(client="10.0.0.9", site="north", status=200)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "logs" / "access.log").read_text().splitlines()]
    assert len(lines) < 100
    assert (lines[-1]["site"], lines[-1]["left_out"]) == ("north", 1001 - len(lines))


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file in the folder's place")
    with pytest.raises(ConfigError, match="cannot be written"):
        AccessLog(tmp_path).open()


def test_who_was_seen_is_on_disk_soon_and_survives_a_restart(tmp_path: Path) -> None:
    async def visits(*sites: str) -> None:
        seen = SeenSites(tmp_path)
        keeping = asyncio.create_task(seen.keep())
        for site in sites:
            seen.note(site)
        await asyncio.sleep(0)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    assert last_seen(tmp_path) == {}
    asyncio.run(visits("north"))
    asyncio.run(visits("south"))
    assert set(last_seen(tmp_path)) == {"north", "south"}
    (tmp_path / "seen.json").write_text("{")
    assert last_seen(tmp_path) == {}
