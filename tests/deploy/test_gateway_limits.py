"""The gateway against requests that are too large, too slow, too frequent or malformed."""

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
from tests.deploy.entrance import MIB, Coordinator, Enrol, pull


@pytest.mark.parametrize(("route", "limit"), [("push-object", 8 * MIB), ("pull-messages", 64 * 1024)])
def test_a_body_may_be_as_large_as_the_limit_and_no_larger(north: Coordinator, route: str, limit: int) -> None:
    whole = bytes(limit)
    assert north.ask("north", route, content=whole).status_code == 400  # it was read, and is no message of Flower
    assert north.ask("north", route, content=whole + b"!").status_code == 413  # by its announced length
    assert north.refused("too large")["bytes_in"] <= limit + 1
    chunks = iter([whole[: limit // 2], whole[limit // 2 :], b"!"])
    assert north.ask("north", route, content=chunks).status_code == 413  # by what came
    assert north.refused("too large")["route"] == f"/v1/fleet/{route}"
    assert north.superlink.asked == []


def test_chunked_bodies_get_through(north: Coordinator) -> None:
    whole = pull()
    assert north.ask("north", content=iter([whole[:3], whole[3:]])).status_code == 200
    assert north.superlink.bodies == [whole]
    assert north.superlink.headers["content-length"] == str(len(whole))


def test_plain_http_is_refused_and_logged(north: Coordinator) -> None:
    with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False) as client:
        client.get(f"http://127.0.0.1:{north.port}/health")
    assert north.refused("plain HTTP")["client"] == "127.0.0.1"


def test_a_client_that_trusts_another_authority_hangs_up_and_is_logged(north: Coordinator) -> None:
    save_credential(make_authority("theirs"), north.home / "theirs.crt", north.home / "theirs.key")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        north.client(ca=north.home / "theirs.crt").get("/health")
    assert north.refused("does not trust our certificate")


def secured(north: Coordinator, site: str | None = None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=north.home / "ca.crt")
    if site:
        context.load_cert_chain(north.home / site / "client.crt", north.home / site / "client.key")
    plain = socket.create_connection(("127.0.0.1", north.port), timeout=10)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def answer_of(connection: ssl.SSLSocket) -> bytes:
    """Return everything that comes until the other side ends the connection."""
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


def test_a_member_that_comes_too_often_is_asked_to_wait(coordinator: Coordinator, enrolled: Enrol) -> None:
    admit(coordinator.home, enrolled("north"))
    coordinator.register()
    coordinator.start(requests_per_minute_of_site=6)
    client = coordinator.client("north")
    asked = {"url": "/v1/fleet/pull-messages", "headers": coordinator.headers("north"), "content": pull()}
    answers = [client.post(**asked) for _ in range(3)]  # type: ignore[arg-type]
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 10
    assert coordinator.refused("too many requests")["status"] == 503


def test_a_stranger_that_comes_too_often_is_answered_late_and_truly(coordinator: Coordinator) -> None:
    coordinator.start(requests_per_minute_of_address=3)
    client = coordinator.client()
    assert client.get("/nowhere").status_code == 404
    began = time.monotonic()
    assert client.get("/health").status_code == 200
    assert time.monotonic() - began > 2.5


def test_one_connection_more_ends_the_oldest_of_the_same_stranger(coordinator: Coordinator) -> None:
    coordinator.start(connections_of_address=1)
    with secured(coordinator) as first, secured(coordinator) as second:
        assert answer_of(first) == b""
        assert coordinator.refused("too many connections")["client"] == "127.0.0.1"
        second.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer_of(second).startswith(b"HTTP/1.1 ")


def test_without_a_superlink_sites_are_asked_to_try_again(coordinator: Coordinator, enrolled: Enrol) -> None:
    admit(coordinator.home, enrolled("north"))
    coordinator.register()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    coordinator.start(upstream_port=closed)
    coordinator.superlink.listener.close()
    answer = coordinator.ask("north")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert coordinator.refused("upstream down")["site"] == "north"
    assert coordinator.client().get("/health").status_code == 503


def test_an_answer_that_breaks_off_is_not_passed_off_as_whole(north: Coordinator) -> None:
    north.superlink.cut = True
    assert north.ask("north").status_code == 502
    assert north.refused("upstream broke off")["site"] == "north"
