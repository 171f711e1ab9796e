"""A coordinator's gateway on real sockets with real TLS, with a small server instead of the SuperLink."""

import asyncio
import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
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
from cdtl_core.deploy.gateway_config import GatewayConfig
from cdtl_core.deploy.keys import flower_bytes, load_key
from cdtl_core.deploy.members import admit, members
from cdtl_core.system.durable import replace_json

Enrol = Callable[..., Enrolment]
MIB = 1024 * 1024
NODE = 2**63 + 1
FORMER = 100  # added to the node of a former key
"""Flower's number of north; of the next site by name, one more."""


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
    """Answers every request of Flower's with what a test chose; remembers what it was asked."""

    def __init__(self, home: Path) -> None:
        self.healthy = True
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.answer = b""
        self.slow_s = 0.0
        self.cut = False
        self.probes = 0
        routes = [Route("/health", self.health), Route("/{path:path}", self.take, methods=["GET", "POST"])]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        files = {"ssl_certfile": home / "server.crt", "ssl_keyfile": home / "server.key"}
        self.server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None, ws="none", **files))  # type: ignore[arg-type]

    async def health(self, request: Request) -> Response:
        self.probes += 1
        return PlainTextResponse("ok" if self.healthy else "ill", 200 if self.healthy else 500)

    async def half(self) -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise ConnectionAbortedError

    async def take(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        self.bodies.append(await request.body())
        self.headers = dict(request.headers)
        await asyncio.sleep(self.slow_s)
        if self.cut:
            return StreamingResponse(self.half())
        return Response(self.answer, media_type="application/protobuf", headers={"x-own": "1"})


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
        """Return the headers of Flower's SuperNode."""
        key = base64.b64encode(flower_bytes(load_key(self.home / site).public_key())).decode()
        return {"flwr-public-key": key, "flwr-timestamp": "now", "flwr-signature": "secret-signature"}

    def register(self) -> None:
        """Tell the gateway which node each admitted site is, as the coordinator's service does."""
        found = enumerate(members(self.home))
        nodes = {
            key: {"site": one.site, "node": str(NODE + n + (0 if key == one.enrolment.fingerprint else FORMER))}
            for n, one in found
            for key in one.keys(datetime.now(UTC))
        }
        replace_json(self.home / "flower" / "nodes.json", nodes)

    def ask(self, site: str, route: str = "pull-messages", *, node: int = NODE, **arguments: Any) -> httpx.Response:
        arguments = {"content": pull(node), **arguments}
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


def pull(node: int = NODE) -> bytes:
    """The request for messages of a node."""
    return PullMessagesRequest(node=Node(node_id=node)).SerializeToString()


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
    coordinator.register()
    coordinator.start()
    return coordinator
