"""The gateway under strangers: numbers and rates of connections, and their effect on members."""

# mypy: disable-error-code=arg-type

import asyncio
import random
import ssl
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cdtl_core.deploy.coordination import gateway_answers
from cdtl_core.deploy.door import Refusal
from cdtl_core.deploy.gateway_config import GatewayConfig
from cdtl_core.deploy.lane import Lane
from cdtl_core.deploy.link_client import LinkClient
from cdtl_core.deploy.members import admit
from cdtl_core.deploy.unit import Unit
from cdtl_core.system.processes import ProcessGroup
from tests.deploy.entrance import Coordinator, Enrol, pull, running
from tests.deploy.loopback import eventually
from tests.deploy.test_gateway_limits import answer_of, secured
from tests.tables import Tries

ALIVE = "the gateway survives strangers"
HEAD = "a request's head causes no fault"


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.attack(ALIVE, "members hang up again and again")
def test_the_pool_leaks_no_connection_when_requests_are_cancelled(coordinator: Coordinator, tries: Tries) -> None:
    """httpx's own pool of 8 is dead for good after this: every place is promised to a request that went away."""
    link, home = coordinator.superlink, coordinator.home
    link.slow_s = 0.02
    pair = {"certificate": home / "server.crt", "key": home / "server.key", "authority": home / "ca.crt"}
    config = GatewayConfig.model_validate(
        {"folder": home, "port": 0, "upstream_port": link.port, "limits": {"calls_of_site": 8}, **pair}
    )

    async def cancelled(client: LinkClient, after_s: float) -> None:
        task = asyncio.create_task(client.call("north", "/v1/fleet/pull-messages", b"", {}))
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def attack() -> tuple[int, int]:
        client = LinkClient(config)
        for _ in range(3):
            await asyncio.gather(*(cancelled(client, 0.0005 * number) for number in range(100)))
        answer = await asyncio.wait_for(client.call("north", "/v1/fleet/pull-messages", b"", {}), 5)
        await asyncio.sleep(2.2)  # idle connections are given up after 2 s
        await client.call("north", "/v1/fleet/pull-messages", b"", {})
        pool = client._client._transport._pool  # type: ignore[attr-defined]
        places = len(pool.connections)
        await client.close()
        return answer.status, places

    with running(link.server, link.listener):
        status, places = asyncio.run(attack())
    assert (status, places) == (200, 1)
    tries.add(300)


def test_a_call_that_cannot_be_made_says_so(coordinator: Coordinator) -> None:
    home = coordinator.home
    coordinator.superlink.listener.close()
    pair = {"certificate": home / "server.crt", "key": home / "server.key", "authority": home / "ca.crt"}
    config = GatewayConfig.model_validate({"folder": home, "port": 0, "upstream_port": 1, **pair})

    async def call() -> None:
        client = LinkClient(config)
        try:
            await client.call("north", "/v1/fleet/pull-messages", b"", {})
        finally:
            await client.close()

    with pytest.raises(Refusal, match="upstream down"):
        asyncio.run(call())


def test_a_kept_connection_that_the_superlink_closed_costs_a_member_nothing(coordinator: Coordinator) -> None:
    home, connections = coordinator.home, list[int]()
    coordinator.superlink.listener.close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "server.crt", home / "server.key")

    async def superlink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the first request of each connection, and hangs up at the second."""
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def call() -> list[int]:
        server = await asyncio.start_server(superlink, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        pair = {"certificate": home / "server.crt", "key": home / "server.key", "authority": home / "ca.crt"}
        config = GatewayConfig.model_validate({"folder": home, "port": 0, "upstream_port": port, **pair})
        client = LinkClient(config)
        try:
            return [(await client.call("north", "/v1/fleet/pull-messages", b"", {})).status for _ in range(3)]
        finally:
            await client.close()
            server.close()

    assert asyncio.run(call()) == [200, 200, 200]
    assert len(connections) == 3


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",  # of strangers whose handshake is cut off
)
@pytest.mark.attack(ALIVE, "256 connections ask for /health")
def test_members_get_through_while_strangers_hold_every_place(
    coordinator: Coordinator, enrolled: Enrol, tries: Tries
) -> None:
    admit(coordinator.home, enrolled("north"))
    coordinator.register()
    coordinator.start(requests_per_minute_of_address=60)
    client, answers = coordinator.client("north"), []
    asked = {"url": "/v1/fleet/pull-messages", "headers": coordinator.headers("north"), "content": pull()}
    assert client.post(**asked).status_code == 200
    context = ssl.create_default_context(cafile=coordinator.home / "ca.crt")

    enough = asyncio.Event()

    async def stranger(number: int) -> None:
        address = (f"127.0.0.{2 + number // 64}", 0)
        while not enough.is_set():
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", coordinator.port, ssl=context, server_hostname="localhost", local_addr=address
                )
            except OSError:
                await asyncio.sleep(0.1)
                continue
            with suppress(OSError):
                while not enough.is_set():
                    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                    if not await reader.read(4096):
                        break
                    tries.add()
            writer.transport.abort()

    async def flood() -> None:
        strangers = [asyncio.create_task(stranger(number)) for number in range(256)]
        while len(answers) < 20 or tries.count < 256:
            answers.append((await asyncio.to_thread(lambda: client.post(**asked))).status_code)
        enough.set()
        await asyncio.gather(*strangers)
        await asyncio.sleep(0.05)  # an aborted transport closes in the loop's next turns

    asyncio.run(asyncio.wait_for(flood(), 60))
    assert set(answers) == {200}
    newcomer = coordinator.client("north")  # and a member that comes after them
    assert newcomer.post(**asked).status_code == 200
    assert {line["status"] for line in coordinator.lines() if line.get("site") == "north"} == {200}


@pytest.mark.attack(ALIVE, "silent connections fill the handshake")
def test_silent_connections_do_not_keep_a_member_out(coordinator: Coordinator, enrolled: Enrol, tries: Tries) -> None:
    admit(coordinator.home, enrolled("north"))
    coordinator.register()
    coordinator.start(handshakes=16, connections=16, handshake_s=60, request_head_s=60)

    async def attack() -> int:
        silent = [await asyncio.open_connection("127.0.0.1", coordinator.port) for _ in range(40)]
        context = ssl.create_default_context(cafile=coordinator.home / "ca.crt")
        spoken = [
            await asyncio.open_connection("127.0.0.1", coordinator.port, ssl=context, server_hostname="localhost")
            for _ in range(40)
        ]
        answer = await asyncio.to_thread(coordinator.ask, "north")
        for _, writer in (*silent, *spoken):
            writer.transport.abort()
        await asyncio.sleep(0.05)  # an aborted transport closes in the loop's next turns
        return answer.status_code

    assert asyncio.run(attack()) == 200
    tries.add(80)


def test_a_full_lane_ends_the_oldest_of_the_holder_with_most() -> None:
    lane, ended = Lane(4, 3), list[str]()
    for holder, who in (("a", "a1"), ("b", "b1"), ("b", "b2"), ("b", "b3")):
        assert lane.enter(holder, who, lambda who=who: ended.append(who)) is None  # type: ignore[misc]
    assert lane.enter("c", "c1", lambda: ended.append("c1")) == "b"
    assert lane.enter("b", "b4", lambda: ended.append("b4")) == "b" or ended == ["b1"]
    lane.leave("a", "a1")
    lane.leave("a", "a1")
    assert (len(lane), lane.holds("a"), ended[0]) == (len(lane), False, "b1")


REQUESTS = {
    b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n": 400,
    b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n": 400,
    b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n": 413,
    b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n": 400,
    b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n": 400,
    b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n": 501,
    b"POST /v1/fleet/%ff%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n": 404,
    b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Content-Length: 0\r\n": 401,
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n": 404,
}


@pytest.mark.attack(HEAD, "lengths and paths that fit nothing")
def test_a_head_that_can_be_read_in_two_ways_is_refused(north: Coordinator, tries: Tries) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in north.headers("north").items()).encode()
    for request, status in REQUESTS.items():
        own = b"" if status == 401 else head
        with secured(north, "north") as connection:
            connection.sendall(request + own + b"Connection: close\r\n\r\n0\r\n\r\n")
            answer = answer_of(connection)
        assert answer[:12] in (f"HTTP/1.1 {status}".encode(), b"HTTP/1.1 400"), (request[:80], answer[:80])
        tries.add()
    assert north.superlink.asked == []


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.attack(HEAD, "random heads")
def test_no_head_makes_the_gateway_fail(north: Coordinator, tries: Tries, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(5)
    pieces = [
        [b"GET", b"POST", b"PUT", b"OPTIONS", b"\xff", b"P" * 300],
        [
            b"/health",
            b"/v1/fleet/pull-messages",
            b"*",
            b"http://x/health",
            b"/%",
            b"//",
            b"/\xc3\xa9",
            b"/?" + b"a" * 999,
        ],
        [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP/2.0", b""],
        [b"Host: x", b"Host:", b"Host: \xff", b"Host: a\r\nHost: b", b"Host: [::1"],
        [b"Content-Length: 3", b"Content-Length: 1e3", b"Content-Length: 3, 3", b"Content-Length: \xd9\xa1", b"A: b"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Expect: 100-continue", b"Expect: x", b"B: c"],
        [b"\x00: a", b"flwr-public-key: \xff", b"flwr-public-key: ====", b"Connection: close, te", b": a", b"C: d"],
    ]
    for _ in range(120):
        method, target, version, *fields = (rng.choice(one) for one in pieces)
        request = b" ".join((method, target, version)) + b"\r\n" + b"\r\n".join(fields) + b"\r\n\r\n"
        with secured(north, rng.choice(["north", None])) as connection:
            connection.settimeout(10)
            connection.sendall(request + rng.choice([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"zz\r\n"]))
            connection.sendall(b"\r\n\r\nno HTTP\r\n\r\n")
            answer = connection.recv(4096)
        assert not answer.startswith(b"HTTP/1.1 500"), request
        tries.add()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert north.ask("north").status_code == 200


def test_a_program_that_runs_and_does_not_answer_is_started_again(tmp_path: Path) -> None:
    answers = [True, False, False, True, False, False, False]

    def start() -> ProcessGroup:
        group = ProcessGroup({}, tmp_path)
        group.start("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
        return group

    unit = Unit("gateway", start, pause_s=0.01, answers=lambda: answers.pop(0), look_s=0.0)
    try:
        assert unit.keep()
        first = unit.pids
        starts = [unit.keep() for _ in range(8)]
        eventually(unit.keep, "the second start") if not any(starts) else None
        assert unit.pids != first
        assert answers == []
    finally:
        unit.stop()


@pytest.mark.attack(ALIVE, "the gateway is frozen")
def test_the_probe_tells_a_working_gateway_from_a_dead_one(north: Coordinator) -> None:
    link, home = north.superlink, north.home
    pair = {"certificate": home / "server.crt", "key": home / "server.key", "authority": home / "ca.crt"}
    config = GatewayConfig.model_validate({"folder": home, "port": north.port, "upstream_port": link.port, **pair})
    eventually(lambda: gateway_answers(config), "the gateway")
    link.healthy = False
    eventually(lambda: north.client().get("/health").status_code == 503, "the next probe")
    assert gateway_answers(config)  # it says truly that the SuperLink is ill
    assert not gateway_answers(config.model_copy(update={"port": 1}))
