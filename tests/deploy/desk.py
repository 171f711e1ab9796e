"""A site's egress filter between Flower's SuperNode and SuperLink, with controls for tests."""

# mypy: disable-error-code=arg-type

import asyncio
import hashlib
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects, push_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from cdtl_core.config import RunConfig, SimulationConfig, SiteConfig
from cdtl_core.config.settings import flatten, save_toml
from cdtl_core.deploy.approval_list import Approval, approvals
from cdtl_core.deploy.approvals import approve
from cdtl_core.deploy.egress_filter.app import build_app
from cdtl_core.deploy.egress_filter.config import FilterConfig
from cdtl_core.deploy.egress_filter.seal import Seal
from cdtl_core.deploy.egress_filter.signing import Signer
from cdtl_core.deploy.link import NODE_KEY, SOCKET, Link
from cdtl_core.deploy.node_main import open_way
from cdtl_core.deploy.request import make_request
from cdtl_core.federation.egress import EgressManifest
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import weights_hash
from cdtl_core.system.durable import replace_bytes
from tests.deploy.loopback import Coordinator, eventually, free_port, served, write_certificates

BUNDLE = b"the code of a run"
RUNTIME_S = 777.125
"""How long the site's app took, as its SuperNode says: nothing of ours needs it elsewhere."""
SECRET = "Martha Example, born 1950"
Tiny = Callable[..., SimulationConfig]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",  # of Flower's SuperLink app
)

RUNTIME_S = 0.7321
"""How long the app of a test's node says it took."""


@dataclass
class Node:
    """Flower's SuperNode connection, used as its main loop does."""

    id: int
    receive: Callable[[], Any]
    send: Callable[..., Any]
    get_run: Callable[[int], Any]
    get_fab: Callable[[str, int], Any]
    pull_object: Callable[[int, str], bytes]
    push_object: Callable[[int, str, str, bytes], None]
    confirm: Callable[[int, str], None]

    def take(self) -> Message | None:
        """The next message, its objects pulled and confirmed."""
        if (received := self.receive()) is None:
            return None
        message, tree = received
        run, names = message.metadata.run_id, [part.object_id for part in iterate_object_tree(tree)]
        pull_objects(names, lambda name: self.pull_object(run, name))
        self.confirm(run, message.metadata.message_id)
        return message  # type: ignore[no-any-return]

    def answer(self, message: Message, content: RecordDict | Error) -> None:
        reply = Message(content, reply_to=message)  # type: ignore[call-overload]
        reply.metadata.__dict__["_message_id"] = reply.object_id
        wanted, session = self.send(reply, get_object_tree(reply), RUNTIME_S)
        run = reply.metadata.run_id
        push_objects(
            get_all_nested_objects(reply),
            lambda name, content: self.push_object(run, session, name, content),
            object_ids_to_push=wanted,
        )


def _listens(path: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


@dataclass
class Desk:
    """A site with an egress filter before a coordinator, and what a test needs to play both."""

    home: Path
    config: FilterConfig
    coordinator: Coordinator
    key: ec.EllipticCurvePrivateKey
    settings: dict[str, Any]
    site: SiteConfig
    run_config: Any
    port: int
    node_key: ec.EllipticCurvePrivateKey

    @contextmanager
    def filter(self) -> Iterator[None]:
        """The filter in this process; the node signs with the key that it has made for it."""
        seal = Seal()
        seal.publish(Link(self.config.link))
        self.node_key = seal.node_pass.key
        with served(build_app(self.config, seal), self.port, self.coordinator.certificates):
            yield

    @contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """The filter as a process of its own, as a site runs it."""
        file = self.home / "config.json"
        file.write_text(self.config.model_dump_json())
        command = [sys.executable, "-m", "cdtl_core.deploy.egress_filter", str(file)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process, self._way():
            try:
                eventually(lambda: _listens(self.config.link / SOCKET) or process.poll() is not None, "the filter")
                assert process.poll() is None
                self.node_key = load_ssh_private_key((self.config.link / NODE_KEY).read_bytes(), None)  # type: ignore[assignment]
                yield process
            finally:
                process.kill()

    @contextmanager
    def _way(self) -> Iterator[None]:
        """From the port to the filter's socket, as in the node's place."""
        began: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def lead() -> None:
            end = asyncio.Event()
            async with await open_way(str(self.config.link / SOCKET), self.port):
                began.set_result((asyncio.get_running_loop(), end))
                await end.wait()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, lead())
            loop, end = began.result()
            try:
                yield
            finally:
                loop.call_soon_threadsafe(end.set)

    def client(self) -> FleetHttpClient:
        """A bare client with this site's signature, for what a SuperNode in order does not do."""
        signed = [
            RuntimeVersionHttpInterceptor("SuperNode"),
            NodeAuthHttpInterceptor(self.node_key, self.node_key.public_key()),
        ]
        address, ca = f"127.0.0.1:{self.port}", str(self.coordinator.certificates.ca)
        return FleetHttpClient.from_server_address(address, False, ca, signed)

    def bare(self) -> httpx.Client:
        """HTTP with the node's signature and without Flower."""
        context = ssl.create_default_context(cafile=str(self.coordinator.certificates.ca))
        headers = Signer(self.node_key).headers()
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=context, trust_env=False, headers=headers)

    @contextmanager
    def node(self) -> Iterator[Node]:
        address, ca = f"127.0.0.1:{self.port}", self.coordinator.certificates.ca.read_bytes()
        with http_request_response(address, False, ca, (self.node_key, self.node_key.public_key())) as connection:
            yield Node(*connection)

    def approve(self, **settings: Any) -> Approval:
        request = make_request(self.run_config, hashlib.sha256(BUNDLE).hexdigest())
        return approve(self.home, request.model_copy(update={"settings": {**request.settings, **settings}}), self.site)

    @property
    def egress(self) -> EgressManifest:
        """The list of the one run that is approved."""
        (approval,) = approvals(self.home).values()
        return approval.egress

    def order(
        self, round: int = 1, *, initial_weights_hash: str = "", share_head: bool = True, offset: int = 0
    ) -> RecordDict:
        """Return the coordinator's message for ``train`` and ``evaluate``; another `offset` makes another order."""
        initial_weights_hash = initial_weights_hash or self.run_config.limits.initial_weights_hash
        order = ConfigRecord({"round": round, "initial_weights_hash": initial_weights_hash, "share_head": share_head})
        return RecordDict({"order": order, "offset": ArrayRecord({"w": Array(np.full(3, offset, np.float16))})})

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / "logs" / "egress.jsonl").read_text().splitlines()]

    def outcome(self, count: int = 1) -> None:
        """Wait until the filter has delivered this number of replies."""
        eventually(lambda: [line["kind"] for line in self.log()].count("outcome") >= count, "the filter's outcome")


@pytest.fixture
def desk(tiny: Tiny, tmp_path: Path) -> Iterator[Desk]:
    home, certificates = tmp_path / "site", write_certificates(tmp_path / "tls")
    coordinator, key = Coordinator(certificates), ec.generate_private_key(ec.SECP384R1())
    coordinator.enrol(key.public_key())
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    save_toml(home / "site.toml", tree)
    config = FilterConfig(
        home=home,
        settings=home / "site.toml",
        link=tmp_path / "link",
        certificate=certificates.certificate,
        private_key=certificates.key,
        site_key=home / "site.key",
        upstream_host="127.0.0.1",
        upstream_port=coordinator.port,
        ca=certificates.ca,
        client_certificate=certificates.certificate,
        client_key=certificates.key,
        hold_s=0,
    )
    config.link.mkdir()
    replace_bytes(config.site_key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    run = with_initial_weights(tiny().run)
    site = SiteConfig.model_validate(tree)
    with coordinator.open():
        yield Desk(home, config, coordinator, key, flatten(run), site, run, free_port(), key)


@pytest.fixture
def open_desk(desk: Desk) -> Iterator[tuple[Desk, Node]]:
    with ExitStack() as stack:
        stack.enter_context(desk.filter())
        yield desk, stack.enter_context(desk.node())


def with_initial_weights(run: RunConfig) -> RunConfig:
    """A run that names its initial weights, as ``cdtl server run`` leaves it."""
    found = weights_hash(build_initial_weights(run.model, run.seed, run.image.size))
    return run.model_copy(update={"limits": run.limits.model_copy(update={"initial_weights_hash": found})})


def honest(manifest: EgressManifest) -> RecordDict:
    """Return an honest answer of a site of this list to ``train``."""
    rng, tensors = np.random.default_rng(1), manifest.replies["train"].arrays["delta"]
    delta = {name: Array(rng.normal(size=tensor.shape).astype(np.float16)) for name, tensor in tensors.items()}
    metrics = {"round": 1, "val_loss": 0.5, "val_auroc": 0.75, "train_loss": 0.25}
    return RecordDict({"delta": ArrayRecord(delta), "metrics": MetricRecord(metrics)})


def error_of(message: Message) -> tuple[int, str]:
    return message.error.code, message.error.reason  # type: ignore[return-value]
