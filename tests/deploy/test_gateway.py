"""The gateway end to end: who is admitted, with which identity, to which routes."""

# mypy: disable-error-code=arg-type

import base64
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse

from cdtl_core.deploy.gateway import open_gateway
from cdtl_core.deploy.gateway_config import GatewayConfig, load_gateway_config
from cdtl_core.deploy.keys import flower_bytes, load_key
from cdtl_core.deploy.members import admit, revoke
from cdtl_core.deploy.seen import last_seen
from cdtl_core.errors import ConfigError
from tests.deploy.entrance import NODE, Coordinator, Enrol, pull
from tests.deploy.loopback import eventually


def test_an_admitted_site_gets_through_with_allowed_headers_only(north: Coordinator) -> None:
    extra = {"x-forwarded-for": "1.2.3.4", "cookie": "a=b", "authorization": "Bearer x", "accept": "application/x"}
    north.superlink.answer = ActivateNodeResponse(node_id=NODE).SerializeToString()
    key = flower_bytes(load_key(north.home / "north").public_key())
    body = ActivateNodeRequest(public_key=key, heartbeat_interval=30).SerializeToString()
    answer = north.client("north").post(
        "/v1/fleet/activate-node?a=b",
        content=body,
        headers={**north.headers("north"), **extra, "content-type": "application/protobuf"},
    )
    assert (answer.status_code, answer.content) == (200, north.superlink.answer)
    assert (north.superlink.asked, north.superlink.bodies) == (["/v1/fleet/activate-node"], [body])
    assert set(north.superlink.headers) == {
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
        "/v1/fleet/activate-node",
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


def test_health_is_the_superlinks_and_asking_for_it_makes_no_call(north: Coordinator) -> None:
    client = north.client()
    eventually(lambda: client.get("/health").status_code == 200, "the first probe")
    before = north.superlink.probes
    assert {client.get("/health").text for _ in range(30)} == {"ok"}
    assert north.superlink.probes <= before + 3
    north.superlink.healthy = False
    eventually(lambda: client.get("/health").status_code == 503, "the next probe")


def test_no_client_without_a_certificate_gets_through(north: Coordinator) -> None:
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
    asked = {"url": "/v1/fleet/pull-messages", "headers": north.headers("south"), "content": pull(NODE + 1)}
    waiting = client.post(**asked)
    assert (waiting.status_code, waiting.text) == (503, "the site is not registered yet")  # a SuperNode tries again
    north.register()
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
    north.register()
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
    assert "torch" not in imported


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
