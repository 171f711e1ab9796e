"""Flower's own SuperLink app and SuperNode on loopback, behind mutual TLS."""

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flwr.app import Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, iterate_object_tree  # type: ignore[attr-defined]
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.main import create_app

DEADLINE_S = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(seen: Callable[[], Any], what: str) -> Any:
    """Wait for an event in another thread or process; fails with its name."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if found := seen():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {DEADLINE_S} s for {what}")


@dataclass(frozen=True)
class Certificates:
    """A CA, and a certificate for 127.0.0.1 that serves for servers and clients alike."""

    ca: Path
    certificate: Path
    key: Path


def write_certificates(folder: Path) -> Certificates:
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, key, now = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
        datetime.now(UTC),
    )

    def sign(name: str, of: ec.EllipticCurvePrivateKey, authority: bool) -> x509.Certificate:
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
        usage = x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(alternative, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(of.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )

    paths = Certificates(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    paths.ca.write_bytes(sign("ca", ca_key, True).public_bytes(Encoding.PEM))
    paths.certificate.write_bytes(sign("127.0.0.1", key, False).public_bytes(Encoding.PEM))
    paths.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@contextmanager
def served(app: Any, port: int, certificates: Certificates, **options: Any) -> Iterator[None]:
    """An ASGI app over TLS in a thread of this process."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        ssl_certfile=certificates.certificate,
        ssl_keyfile=str(certificates.key),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        loop="asyncio",
        ws="none",
        **options,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive(), "the server to start")
        assert server.started
        yield
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)


class Coordinator:
    """Flower's SuperLink app; `bodies` is everything that it was ever sent, `broken` makes paths answer 503."""

    def __init__(self, certificates: Certificates) -> None:
        self.port, self.certificates = free_port(), certificates
        self.app = create_app()
        self.state = self.app.state.linkstate_factory.state()
        self.bodies: list[tuple[str, bytes]] = []
        self.broken: set[str] = set()
        self.refused = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name, body = scope["path"].rsplit("/", 1)[-1], bytearray()
        if name in self.broken:
            self.refused.set()
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def listening() -> Any:
            event = await receive()
            body.extend(event.get("body", b""))
            if not event.get("more_body", False):
                self.bodies.append((name, bytes(body)))
            return event

        await self.app(scope, listening, send)

    @contextmanager
    def open(self) -> Iterator["Coordinator"]:
        options = {"ssl_ca_certs": str(self.certificates.ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        with served(self, self.port, self.certificates, **options):
            yield self

    def enrol(self, key: ec.EllipticCurvePublicKey) -> int:
        return int(self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key_to_bytes(key), 30.0))

    def start_run(self, bundle: bytes, settings: dict[str, Any], task_type: str = TaskType.SERVER_APP) -> int:
        name = self.state.store_fab(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {}))
        run = self.state.create_run(
            "cdtl/cdtl", "1", name, settings, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, task_type
        )
        task = self.state.get_run_info(run_ids=[run])[0].primary_task_id
        assert self.state.claim_task(task)
        assert self.state.activate_task(task)
        return int(run)

    def ask(self, run: int, node: int, content: RecordDict, kind: str = "train", round: str = "1") -> str:
        """Send a message to a node, as the server's app does."""
        task = self.state.get_run_info(run_ids=[run])[0].primary_task_id
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task, run, 1
        message = Message(content, node, kind, ttl=600, group_id=round)
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(run)
        stored, missing = self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        assert stored
        for name, part in get_all_nested_objects(message).items():
            if name in missing:
                assert self.state.store_object(run, session, name, part.deflate())
        return message.metadata.message_id

    def reply(self, run: int, asked: str) -> Message:
        """Wait for the reply to a message."""

        def complete() -> Message | None:
            store = self.state.object_store
            for name, reply in list(self.state.message_res_store.items()):
                if reply.metadata.reply_to_message_id != asked:
                    continue
                tree = store.get_object_tree(name)
                parts = {
                    part.object_id: self.state.get_object(run, part.object_id) for part in iterate_object_tree(tree)
                }
                if all(parts.values()):
                    return inflate_object_from_contents(name, parts)  # type: ignore[arg-type,return-value]
            return None

        return eventually(complete, "the reply")  # type: ignore[no-any-return]

    @property
    def heard(self) -> bytes:
        return b"".join(body for _, body in self.bodies)
