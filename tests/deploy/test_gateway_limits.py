"""The gateway against what is too large, too slow, too often, or no request at all."""

import hashlib
import socket
import ssl
import time
from contextlib import suppress

import httpx
import pytest

from cdtl_core.deploy.certificates import (
    make_authority,
    save_credential,
)
from cdtl_core.deploy.members import admit
from tests.deploy.entrance import MIB, Coordinator, Enrol


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
