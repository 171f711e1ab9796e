"""The gateway end to end: real sockets, real TLS, a small server in the SuperLink's place."""

import base64
import hashlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cdtl_core.deploy.certificates import (
    Credential,
    issue_server_certificate,
    make_authority,
    save_credential,
    self_signed_client_certificate,
)
from cdtl_core.deploy.enrolment import Enrolment
from cdtl_core.deploy.gateway import open_gateway
from cdtl_core.deploy.gateway_config import GatewayConfig, load_gateway_config
from cdtl_core.deploy.keys import flower_bytes, load_key
from cdtl_core.deploy.members import admit, revoke
from cdtl_core.deploy.seen import last_seen
from cdtl_core.errors import ConfigError

Enrol = Callable[..., Enrolment]
MIB = 1024 * 1024


@contextmanager
def running(server: uvicorn.Server, listener: socket.socket) -> Iterator[None]:
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()
        assert not thread.is_alive()


class SuperLink:
    """Answers what it was asked; remembers nothing but its last request."""

    def __init__(self, home: Path) -> None:
        self.healthy = True
        self.asked: list[str] = []
        routes = [Route("/health", self.health), Route("/{path:path}", self.echo, methods=["GET", "POST"])]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        files = {"ssl_certfile": home / "server.crt", "ssl_keyfile": home / "server.key"}
        self.server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None, ws="none", **files))

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("ok" if self.healthy else "ill", 200 if self.healthy else 500)

    async def half(self) -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise ConnectionAbortedError

    async def echo(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        if request.url.path.endswith("get-fab"):
            return StreamingResponse(self.half())
        body = await request.body()
        sums = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        return JSONResponse(
            {"path": request.url.path, "headers": dict(request.headers), **sums}, headers={"x-own": "1"}
        )


class Coordinator:
    """A folder with its authority, a SuperLink, and as many gateways as a test starts."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        self.stack = stack
        authority = make_authority("test federation")
        save_credential(authority, home / "ca.crt", home / "ca.key")
        save_credential(
            issue_server_certificate(authority, ["localhost", "127.0.0.1"]), home / "server.crt", home / "server.key"
        )
        self.superlink = SuperLink(home)
        self.port = 0

    def start(self, *, upstream_port: int | None = None, **limits: Any) -> None:
        config = GatewayConfig.model_validate(
            {
                "folder": self.home,
                "host": "127.0.0.1",
                "port": 0,
                "upstream_port": upstream_port or self.superlink.port,
                "certificate": self.home / "server.crt",
                "key": self.home / "server.key",
                "authority": self.home / "ca.crt",
                "limits": limits,
            }
        )
        if upstream_port is None:
            self.stack.enter_context(running(self.superlink.server, self.superlink.listener))
        server, listener = open_gateway(config)
        self.port = listener.getsockname()[1]
        self.stack.enter_context(running(server, listener))
        for each in (server, self.superlink.server):  # both at once: half the waiting
            self.stack.callback(setattr, each, "should_exit", True)

    def client(self, site: str | None = None, *, ca: Path | None = None) -> httpx.Client:
        """A client that shows the certificate of a site (by its key's folder), or none."""
        context = ssl.create_default_context(cafile=ca or self.home / "ca.crt")
        if site:
            context.load_cert_chain(self.home / site / "client.crt", self.home / site / "client.key")
        client = httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=context, trust_env=False, timeout=10)
        return self.stack.enter_context(client)

    def headers(self, site: str) -> dict[str, str]:
        """What Flower's SuperNode sends."""
        key = base64.b64encode(flower_bytes(load_key(self.home / site).public_key())).decode()
        return {"flwr-public-key": key, "flwr-timestamp": "now", "flwr-signature": "secret-signature"}

    def ask(self, site: str, route: str = "pull-messages", **arguments: Any) -> httpx.Response:
        return self.client(site).post(f"/v1/fleet/{route}", headers=self.headers(site), **arguments)

    def lines(self) -> list[dict[str, Any]]:
        path = self.home / "logs" / "access.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def refused(self, reason: str) -> dict[str, Any]:
        """The line that says so, which may be on its way still."""
        ends = time.monotonic() + 5
        while time.monotonic() < ends:
            found = [line for line in self.lines() if reason in line.get("refused", "")]
            if found:
                return found[-1]
            time.sleep(0.01)
        raise AssertionError(f"no line says {reason!r}: {self.lines()}")


@pytest.fixture
def enrolled(enrol: Enrol, tmp_path: Path) -> Enrol:
    """Enrol a site and put its client certificate beside its key."""

    def make(site: str, **arguments: Any) -> Enrolment:
        made = enrol(site, **arguments)
        home = tmp_path / arguments.get("folder", site)
        key = load_key(home)
        # The certificate enrolled, not one like it: pinned is pinned.
        (home / "client.crt").write_text(made.certificate)
        save_credential(Credential(self_signed_client_certificate(key, site), key), home / "x.crt", home / "client.key")
        return made

    return make


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with ExitStack() as stack:
        yield Coordinator(tmp_path, stack)


@pytest.fixture
def north(coordinator: Coordinator, enrolled: Enrol) -> Coordinator:
    """A coordinator that admitted north, its gateway up."""
    admit(coordinator.home, enrolled("north"))
    coordinator.start()
    return coordinator


def test_an_admitted_site_gets_through_with_allowed_headers_only(north: Coordinator) -> None:
    body = bytes(range(256)) * 20000  # 5 MB: an object's chunk
    extra = {"x-forwarded-for": "1.2.3.4", "cookie": "a=b", "authorization": "Bearer x", "accept": "application/x"}
    answer = north.client("north").post(
        "/v1/fleet/push-object?a=b",
        content=body,
        headers={**north.headers("north"), **extra, "content-type": "application/protobuf"},
    )
    assert answer.status_code == 200
    said = answer.json()
    assert (said["path"], said["size"], said["sha256"]) == (
        "/v1/fleet/push-object",
        len(body),
        hashlib.sha256(body).hexdigest(),
    )
    assert set(said["headers"]) == {
        "accept",
        "content-length",
        "content-type",
        "flwr-public-key",
        "flwr-signature",
        "flwr-timestamp",
        "host",
    }
    assert "x-own" not in answer.headers
    line = north.lines()[-1]
    assert (line["site"], line["route"], line["status"], line["bytes_in"], line["client"]) == (
        "north",
        "/v1/fleet/push-object",
        200,
        len(body),
        "127.0.0.1",
    )
    assert line["bytes_out"] == len(answer.content)
    assert line["ms"] >= 0
    assert "secret-signature" not in (north.home / "logs" / "access.log").read_text()


def test_the_last_visit_of_a_site_is_kept_for_the_status_page(north: Coordinator) -> None:
    began = time.time()
    assert north.ask("north").status_code == 200
    north.stack.close()  # written at the latest when the gateway stops
    assert last_seen(north.home)["north"] == pytest.approx(began, abs=10)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/list-runs"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("POST", "/v1/fleet/..%2fcontrol/list-runs"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "//v1/fleet/pull-messages"),
        ("GET", "/v1/fleet/pull-messages"),
        ("POST", "/health"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
    ],
)
def test_every_other_path_is_unknown_even_to_a_member(north: Coordinator, method: str, path: str) -> None:
    request = httpx.Request(method, f"https://127.0.0.1:{north.port}{path}", headers=north.headers("north"))
    assert north.client("north").send(request).status_code == 404
    assert north.superlink.asked == []
    assert north.refused("unknown path")["status"] == 404


def test_health_is_the_superlinks(north: Coordinator) -> None:
    client = north.client()
    assert (client.get("/health").status_code, client.get("/health").text) == (200, "ok")
    north.superlink.healthy = False
    assert client.get("/health").status_code == 503


def test_without_a_client_certificate_nobody_gets_through(north: Coordinator) -> None:
    answer = north.client().post("/v1/fleet/pull-messages", headers=north.headers("north"))
    assert answer.status_code == 401
    assert north.refused("no client certificate")["status"] == 401
    assert north.superlink.asked == []


def test_an_unknown_certificate_ends_in_the_handshake(north: Coordinator, enrolled: Enrol) -> None:
    enrolled("stranger")
    with pytest.raises(httpx.TransportError):
        north.ask("stranger")
    assert north.refused("unknown client certificate")["client"] == "127.0.0.1"


def test_a_site_is_admitted_and_revoked_without_a_restart(north: Coordinator, enrolled: Enrol) -> None:
    applied = enrolled("south")
    with pytest.raises(httpx.TransportError):
        north.ask("south")
    admit(north.home, applied)
    client = north.client("south")
    asked = {"url": "/v1/fleet/pull-messages", "headers": north.headers("south")}
    assert client.post(**asked).status_code == 200
    revoke(north.home, "south")
    assert client.post(**asked).status_code == 401  # on the open connection
    assert north.ask("south").status_code == 401  # and on a new one
    assert (north.refused("revoked key")["status"], north.refused("revoked key")["site"]) == (401, "south")
    assert north.ask("north").status_code == 200


def test_a_revoked_site_is_told_so_after_a_restart_too(coordinator: Coordinator, enrolled: Enrol) -> None:
    admit(coordinator.home, enrolled("south"))
    revoke(coordinator.home, "south")
    coordinator.start()
    answer = coordinator.ask("south")
    assert (answer.status_code, answer.text) == (401, "revoked key")


def test_a_site_that_changed_its_key_comes_with_the_new_one_only(north: Coordinator, enrolled: Enrol) -> None:
    assert north.ask("north").status_code == 200
    revoke(north.home, "north")
    admit(north.home, enrolled("north", folder="new"))
    assert north.ask("new").status_code == 200
    assert north.ask("north").status_code == 401
    assert north.refused("unregistered key")


def test_flowers_headers_of_another_site_cannot_be_used(north: Coordinator, enrolled: Enrol) -> None:
    admit(north.home, enrolled("south"))
    enrolled("stranger")
    client = north.client("north")
    for site, reason in (("south", "key mismatch"), ("stranger", "unregistered key")):
        answer = client.post("/v1/fleet/push-messages", headers=north.headers(site))
        assert answer.status_code == 401
        assert "south" not in answer.text  # who else is a member is not told
        assert north.refused(reason)["status"] == 401
    for header in ({}, {"flwr-public-key": "%%%"}, {"flwr-public-key": base64.b64encode(b"no PEM").decode()}):
        assert client.post("/v1/fleet/push-messages", headers=header).status_code == 401
    assert north.refused("no node key")
    assert north.superlink.asked == []


@pytest.mark.parametrize(("route", "limit"), [("push-object", 8 * MIB), ("pull-messages", 64 * 1024)])
def test_a_body_may_be_as_large_as_the_limit_and_no_larger(north: Coordinator, route: str, limit: int) -> None:
    whole = bytes(limit)
    assert north.ask("north", route, content=whole).json()["size"] == limit
    north.superlink.asked.clear()
    assert north.ask("north", route, content=whole + b"!").status_code == 413  # by its announced length
    assert north.superlink.asked == []
    chunks = iter([whole[: limit // 2], whole[limit // 2 :], b"!"])
    assert north.ask("north", route, content=chunks).status_code == 413  # by what came
    assert north.refused("too large")["route"] == f"/v1/fleet/{route}"


def test_chunked_bodies_get_through(north: Coordinator) -> None:
    assert north.ask("north", content=iter([b"ab", b"c"])).json()["sha256"] == hashlib.sha256(b"abc").hexdigest()


def test_plain_http_is_refused_and_logged(north: Coordinator) -> None:
    with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False) as client:
        client.get(f"http://127.0.0.1:{north.port}/health")
    assert north.refused("plain HTTP")["client"] == "127.0.0.1"


def test_a_client_that_trusts_another_authority_hangs_up_and_is_logged(north: Coordinator) -> None:
    save_credential(make_authority("theirs"), north.home / "theirs.crt", north.home / "theirs.key")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        north.client(ca=north.home / "theirs.crt").get("/health")
    assert north.refused("does not trust our certificate")


def secured(north: Coordinator, site: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=north.home / "ca.crt")
    context.load_cert_chain(north.home / site / "client.crt", north.home / site / "client.key")
    plain = socket.create_connection(("127.0.0.1", north.port), timeout=10)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def answer_of(connection: ssl.SSLSocket) -> bytes:
    """All that comes until the other side ends the connection, one way or the other."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            answer += piece
    return answer


def test_who_dawdles_is_cut_off(coordinator: Coordinator, enrolled: Enrol) -> None:
    admit(coordinator.home, enrolled("north"))
    coordinator.start(body_s=0.3, request_head_s=0.3, handshake_s=0.3)
    with socket.create_connection(("127.0.0.1", coordinator.port), timeout=10) as silent:
        assert silent.recv(1) == b""
    assert coordinator.refused("handshake took too long")
    with secured(coordinator, "north") as connection:
        connection.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n")
        assert answer_of(connection) == b""
    assert coordinator.refused("no request within 0.3 s")
    head = "".join(f"{name}: {value}\r\n" for name, value in coordinator.headers("north").items())
    with secured(coordinator, "north") as connection:
        request = f"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n{head}\r\nabc"
        connection.sendall(request.encode())
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"connection: close" in answer
    assert coordinator.refused("the body did not arrive within 0.3 s")["bytes_in"] == 3


def test_what_is_no_http_is_logged(north: Coordinator) -> None:
    with secured(north, "north") as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nx: " + b"a" * 40000)
        assert answer_of(connection).startswith(b"HTTP/1.1 400")
    assert north.refused("a head too large")


@pytest.mark.parametrize("limit", ["requests_per_minute_of_site", "requests_per_minute_of_address"])
def test_who_comes_too_often_is_asked_to_wait(coordinator: Coordinator, enrolled: Enrol, limit: str) -> None:
    admit(coordinator.home, enrolled("north"))
    coordinator.start(**{limit: 6})
    client = coordinator.client("north")
    asked = {"url": "/v1/fleet/pull-messages", "headers": coordinator.headers("north")}
    answers = [client.post(**asked) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 10
    assert coordinator.refused("too many requests")["status"] == 503


def test_connections_are_counted_and_freed(coordinator: Coordinator, enrolled: Enrol) -> None:
    admit(coordinator.home, enrolled("north"))
    coordinator.start(connections_of_address=1)
    first = coordinator.client()
    assert first.get("/health").status_code == 200
    with pytest.raises(httpx.TransportError):
        coordinator.client().get("/health")
    assert coordinator.refused("too many connections")
    first.close()
    ends = time.monotonic() + 5
    while True:
        try:
            assert coordinator.client().get("/health").status_code == 200
            break
        except httpx.TransportError:
            assert time.monotonic() < ends


def test_without_a_superlink_sites_are_asked_to_try_again(coordinator: Coordinator, enrolled: Enrol) -> None:
    admit(coordinator.home, enrolled("north"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    coordinator.start(upstream_port=nobody)
    coordinator.superlink.listener.close()
    answer = coordinator.ask("north", content=b"x")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert coordinator.refused("upstream down")["site"] == "north"
    assert coordinator.client().get("/health").status_code == 503


def test_an_answer_that_breaks_off_is_not_passed_off_as_whole(north: Coordinator) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        north.ask("north", "get-fab")
    assert north.refused("upstream broke off")["site"] == "north"


def test_the_process_imports_no_torch_prints_nothing_and_stops_on_a_signal(
    coordinator: Coordinator, enrolled: Enrol
) -> None:
    coordinator.superlink.listener.close()
    home = coordinator.home
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pair = {"certificate": str(home / "server.crt"), "key": str(home / "server.key"), "authority": str(home / "ca.crt")}
    config = {"folder": str(home), "host": "127.0.0.1", "port": port, "upstream_port": 1, **pair}
    (home / "gateway.json").write_text(json.dumps(config))
    command = [sys.executable, "-X", "importtime", "-m", "cdtl_core.deploy.gateway", str(home / "gateway.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        before = []
        for line in process.stderr:
            before.append(line)
            if "gateway on 127.0.0.1" in line:
                break
        coordinator.port = port
        assert coordinator.client().get("/health").status_code == 503
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=15)
    assert (process.returncode, said) == (0, "")
    imported = {line.rsplit("|", 1)[-1].strip() for line in before if line.startswith("import time:")}
    assert "uvicorn" in imported
    assert not imported & {"torch", "flwr"}


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_gateway_config(path)
    path.write_text('{"port": 1, "secret": 2}')
    with pytest.raises(ConfigError, match="is wrong in folder"):
        load_gateway_config(path)


def test_a_taken_port_or_damaged_certificate_is_named(coordinator: Coordinator) -> None:
    coordinator.superlink.listener.close()
    home = coordinator.home
    fields = {"folder": home, "host": "127.0.0.1", "upstream_port": 1, "authority": home / "ca.crt"}
    pair = {"certificate": home / "server.crt", "key": home / "server.key"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = GatewayConfig.model_validate({**fields, **pair, "port": taken.getsockname()[1]})
        with pytest.raises(ConfigError, match="cannot be opened"):
            open_gateway(config)
    with pytest.raises(ConfigError, match="cannot be used"):
        open_gateway(GatewayConfig.model_validate({**fields, **pair, "port": 0, "key": home / "ca.key"}))
    with pytest.raises(ConfigError, match="authority"):
        open_gateway(GatewayConfig.model_validate({**fields, **pair, "port": 0, "authority": home / "no.crt"}))
