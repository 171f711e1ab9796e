"""What both desks rest on: what a foreign page, program or person may try against a person's session."""

import http.client
import logging
import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from cdtl_core.desk.desk import Desk
from cdtl_core.desk.serving import MOST_OPEN
from tests.desk.book import Book, book, desk
from tests.desk.person import Person

__all__ = ["book", "desk"]


def raw(port: int, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> tuple[int, str]:
    """Send exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.attack("No foreign page acts at a desk", "forged Host: DNS rebinding")
def test_another_name_in_host_is_refused(desk: Desk, person: Person, tries: Any) -> None:
    cookie = ("Cookie", "; ".join(f"{name}={key}" for name, key in person.client.cookies.items()))
    good = f"127.0.0.1:{desk.port}"
    assert raw(desk.port, "GET", f"{desk.base}/", [("Host", good), cookie])[0] == 200
    assert raw(desk.port, "GET", f"{desk.base}/", [("Host", f"localhost:{desk.port}"), cookie])[0] == 200
    port = desk.port
    near = ("127.0.0.1", "localhost", "127.0.0.1:1", f"{good}.evil.example", f"[::1]:{port}", f"0.0.0.0:{port}", "")
    for host in ("evil.example", f"evil.example:{port}", f"LOCALHOST.evil:{port}", *near):
        for path in (f"{desk.base}/", "/desk.css", "/enter/x"):
            assert raw(desk.port, "GET", path, [("Host", host), cookie])[0] == 421, host
            tries.add()
    assert raw(desk.port, "GET", f"{desk.base}/", [("Host", good), ("Host", "evil.example"), cookie])[0] in {400, 421}


@pytest.mark.attack("No foreign page acts at a desk", "forged or missing Origin, Sec-Fetch-Site")
def test_a_form_from_another_origin_is_refused(desk: Desk, person: Person, book: Book, tries: Any) -> None:
    good, csrf = person.origin, person.csrf
    near = (f"https://127.0.0.1:{desk.port}", "http://127.0.0.1", f"http://127.0.0.1:{desk.port + 1}")
    for origin in ("https://evil.example", "null", "", f"http://localhost:{desk.port}", good + ".evil.example", *near):
        assert person.send("/write", headers={"Origin": origin}, csrf=csrf, text="x").status_code == 403, origin
        tries.add()
    assert person.client.post(person.at("/write"), data={"csrf": csrf, "text": "x"}).status_code == 403
    for site in ("cross-site", "same-site", "none"):
        assert person.send("/write", headers={"Sec-Fetch-Site": site}, csrf=csrf, text="x").status_code == 403
    for kind in ("iframe", "script", "image", "empty", "style"):
        seen = person.get("/", **{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": kind})
        assert seen.status_code == 403
        tries.add()
    assert book.written == []


@pytest.mark.attack("No foreign page acts at a desk", "missing CSRF token, another session's, twice")
def test_a_form_without_the_token_of_its_session_does_nothing(
    desk: Desk, person: Person, book: Book, tries: Any
) -> None:
    other = Person(desk.port)
    other.open(desk.link())
    csrf = person.csrf
    assert other.csrf != csrf
    for fields in ({}, {"csrf": ""}, {"csrf": csrf[:-1]}, {"csrf": other.csrf}, {"csrf": "\u00e9"}):
        answer = person.send("/write", text="x", **fields)
        assert answer.status_code == 403
        tries.add()
    body = f"csrf={other.csrf}&csrf={csrf}&text=x".encode()
    headers = {"Origin": person.origin, "Content-Type": "application/x-www-form-urlencoded"}
    assert person.client.post(person.at("/write"), content=body, headers=headers).status_code == 400
    assert person.send("/leave").status_code == 403
    assert book.written == []
    other.send("/leave", csrf=other.csrf)
    assert person.get("/").status_code == 200


@pytest.mark.attack("No foreign page acts at a desk", "GET and other methods on what changes something")
def test_only_a_posted_form_changes_something(person: Person, book: Book, tries: Any) -> None:
    csrf = person.csrf
    for path in ("/write", "/upload", "/leave", "/enter"):
        assert person.get(f"{path}?csrf={csrf}&text=x").status_code == (401 if path == "/enter" else 405)
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert person.client.request(method, person.at(path), headers={"Origin": person.origin}).status_code == 405
            tries.add()
    assert person.send("/", csrf=csrf).status_code == 405
    assert person.get("/").status_code == 200
    assert book.written == []


@pytest.mark.attack("A desk reads no more than it asks for", "oversize body, no length, chunks, many fields and files")
def test_a_body_that_is_too_long_is_refused_unread(desk: Desk, person: Person, book: Book, tries: Any) -> None:
    csrf = person.csrf
    assert person.send("/write", csrf=csrf, text="x" * 70_000).status_code == 413
    large = {"file": ("a.png", b"\0" * 300_000)}
    assert person.send("/upload", large, csrf=csrf).status_code == 413
    headers = {"Origin": person.origin, "Content-Type": "application/x-www-form-urlencoded"}
    for length in ({"Transfer-Encoding": "chunked"}, {"Content-Length": "-1"}, {"Content-Length": "1e3"}, {}):
        given = [("Host", f"127.0.0.1:{desk.port}"), *headers.items(), *length.items()]
        assert raw(desk.port, "POST", person.at("/write"), given)[0] in {400, 411}
        tries.add()
    assert person.send("/write", csrf=csrf, **{f"f{number}": "" for number in range(100)}).status_code == 400
    files = [("file", (f"{number}.png", b"x")) for number in range(3)]
    assert person.send("/upload", files, csrf=csrf).status_code == 400
    broken = {**headers, "Content-Type": "multipart/form-data; boundary=x"}
    assert person.client.post(person.at("/upload"), content=b"--y\r\nnot a form", headers=broken).status_code in {
        400,
        403,
    }
    assert book.written == []
    assert person.send("/upload", {"file": ("../../a.png", b"\0" * 150_000)}, csrf=csrf).status_code == 200
    assert len(book.written) == 1


def test_every_answer_forbids_scripts_frames_and_copies(desk: Desk, person: Person) -> None:
    stranger = Person(desk.port)
    answers = [person.get("/"), person.get("/of/x"), person.get("/desk.js"), stranger.get("/"), person.get("/nothing"),
               person.send("/write", csrf="", text=""), person.send("/write", headers={"Origin": "null"})]  # fmt: skip
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        for part in ("frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.attack("Foreign text is shown, not executed", "scripts and escapes in a name, a path, a field")
def test_foreign_text_is_escaped_on_every_page(desk: Desk, person: Person, tries: Any) -> None:
    script = "<script>alert(1)</script>"
    pages = [
        person.get("/").text,
        Person(desk.port).get("/").text,
        person.get("/of/" + script.replace("/", "%2f")).text,
    ]
    pages += [
        person.send("/write", csrf=person.csrf, text=script + "\x1b[2J").text,
        person.get("/of/%3Cscript%3E").text,
    ]
    for text in pages:
        assert "<script>" not in text
        assert "<b>" not in text
        assert "\x1b" not in text
        assert "onerror" not in text
        tries.add()
    assert "&lt;script&gt;" in pages[3]


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/desk.css/../doors.py", "/%2e%2e/", "//x"]
)
def test_no_file_but_the_desks_own_is_reachable(desk: Desk, person: Person, path: str) -> None:
    cookie = "; ".join(f"{name}={key}" for name, key in person.client.cookies.items())
    status, text = raw(desk.port, "GET", path, [("Host", f"127.0.0.1:{desk.port}"), ("Cookie", cookie)])
    assert status == 404
    assert "There is no such page" in text


def test_a_fault_is_a_sentence_and_a_crash_tells_nothing(
    person: Person, book: Book, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = person.get("/of/alba")
    assert told.status_code == 400
    assert "there is no alba." in told.text
    csrf = person.csrf
    with caplog.at_level(logging.CRITICAL):
        crashed = person.send("/write", csrf=csrf)  # a field is missing
    assert crashed.status_code == 500
    assert "KeyError" not in crashed.text


@pytest.mark.attack("Other accounts cannot keep a person out of a desk", "silent, half a head, half a body")
def test_programs_that_hold_connections_do_not_stop_the_desk(desk: Desk, person: Person, tries: Any) -> None:
    head = f"POST /enter HTTP/1.1\r\nHost: 127.0.0.1:{desk.port}\r\nOrigin: {person.origin}\r\n"
    slow = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\ntoken="
    with ExitStack() as stack:
        for begun in ("", head, head + slow):
            for _ in range(MOST_OPEN // 2):
                held = stack.enter_context(socket.create_connection(("127.0.0.1", desk.port), timeout=20))
                held.sendall(begun.encode())
                tries.add()
            other = Person(desk.port)
            assert other.open(desk.link()).status_code == 200
            assert person.get("/").status_code == 200


def test_a_form_that_takes_long_holds_up_no_other_form(desk: Desk, person: Person, book: Book) -> None:
    other, csrf = Person(desk.port), person.csrf
    other.open(desk.link())
    slow = threading.Thread(target=person.send, args=("/slow",), kwargs={"csrf": csrf})
    slow.start()
    assert book.begun.wait(20)
    other.client.timeout = 10
    try:
        assert other.send("/write", csrf=other.csrf, text="now").status_code == 200
    finally:
        book.end.set()
        slow.join(20)
    assert book.written == ["now"]
