"""The served page: one page, strict headers, this machine only, updated after each round."""

import http.client
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdtl_core.errors import ConfigError
from cdtl_core.report.live import server_of
from cdtl_core.report.serve import PageServer, is_loopback, serving
from tests.report.conftest import Hospitals


@pytest.fixture
def going(finished: Path, tmp_path: Path) -> Path:
    """A run after two rounds of its second method."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "report.json").unlink()
    for path in run.glob("sites/*/models"):
        shutil.rmtree(path)
    lines = (run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run / "rounds.jsonl").write_text("".join(lines[:6]))
    (run / "later").write_text("".join(lines[6:]))
    return run


@pytest.fixture
def server(going: Path) -> Iterator[PageServer]:
    with serving(server_of(going)) as found:
        yield found


def ask(server: PageServer, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), text


def test_there_is_one_page_and_nothing_else_of_the_folder(server: PageServer) -> None:
    status, headers, text = ask(server)
    assert (status, "data-live" in text) == (200, True)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Python" not in headers["Server"]
    for path in ("/config.toml", "/sites/", "/../config.toml", "/rounds.jsonl", "/%2e%2e/"):
        status, _, text = ask(server, path)
        assert (status, text) == (404, "The only page here is /\n")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, method=method)[0] == 501
    status, headers, text = ask(server, method="HEAD")
    assert (status, text, int(headers["Content-Length"]) > 10_000) == (200, "", True)


def test_another_sites_page_cannot_read_it_through_a_browser(server: PageServer) -> None:
    assert ask(server, Host="evil.example.org:80")[0] == 421
    assert ask(server, Host="127.0.0.1.evil.example.org")[0] == 421
    assert ask(server, Host="")[0] == 421
    for name in ("localhost", "127.0.0.1:1", "[::1]", "[::1]:99"):
        assert ask(server, Host=name)[0] == 200, name


def test_the_same_page_is_not_sent_twice_and_a_round_makes_it_new(server: PageServer, going: Path) -> None:
    _, headers, text = ask(server)
    assert "CDTL, round 2 of 3" in text
    tag = headers["ETag"]
    assert ask(server, If_None_Match=tag)[0] == 304
    later = (going / "later").read_text().splitlines(keepends=True)
    with open(going / "rounds.jsonl", "a") as file:
        file.write(later[0])
    status, headers, text = ask(server, If_None_Match=tag)
    assert (status, "CDTL, round 3 of 3" in text) == (200, True)
    assert headers["ETag"] != tag
    (going / "report.json").write_text("{}")
    assert "data-live" not in re.split("<body", ask(server)[2])[0]


def test_a_coordinators_newest_run_is_served_and_a_sites_folder_is_not(hospitals: Hospitals) -> None:
    with serving(server_of(hospitals.coordinator)) as server:
        status, _, text = ask(server)
        assert (status, "study: the coordinator" in text) == (200, True)
    with serving(server_of(hospitals.homes["alba"])) as server:
        status, headers, text = ask(server)
        assert (status, headers["Refresh"]) == (503, "5")
        assert "patients' images" in text


def test_a_port_in_use_is_a_sentence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match="choose --port"),
    ):
        PageServer("127.0.0.1", taken.getsockname()[1], make=str, stamp=str)


def test_what_is_loopback() -> None:
    assert [is_loopback(name) for name in ("localhost", "127.8.9.1", "::1", "[::1]")] == [True] * 4
    assert [is_loopback(name) for name in ("0.0.0.0", "10.0.0.1", "localhost.example.org", "")] == [False] * 4
