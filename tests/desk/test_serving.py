"""The desk as a program: one port on loopback, links on its terminal, and a browser that is told no secret."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import psutil
import pytest

from cdtl_core.config.settings import save_toml
from tests.conftest import Cdtl
from tests.deploy.loopback import eventually
from tests.desk.person import Person

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "alba"
    save_toml(folder / "site.toml", {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}})
    return folder


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start ``cdtl site desk``; its browser is a script that notes its argument."""
    started = []
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\necho "$1" > {tmp_path / "opened.part"}\nmv {tmp_path / "opened.part"} {tmp_path / "opened"}\n'
    )
    browser.chmod(0o755)
    env = {**os.environ, "BROWSER": str(browser), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def run(*options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "cdtl_core.cli.main", "site", "desk", str(home), *options]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, env={**env, "TMPDIR": str(tmp_path)}, text=True, **pipes)  # type: ignore[call-overload]
        started.append(process)
        return process  # type: ignore[no-any-return]

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def link_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return next(line.strip() for line in process.stdout if "/enter/" in line)


def test_the_program_opens_a_browser_without_telling_others_the_link(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    process = start("--open")
    link, opened = link_of(process), tmp_path / "opened"
    eventually(opened.exists, "the browser")
    told = opened.read_text().strip()
    assert told.startswith("file://")
    assert link not in told
    page = Path(url2pathname(urlsplit(told).path))
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    assert link in page.read_text()
    listening = [one.laddr for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"]
    assert [address.ip for address in listening] == ["127.0.0.1"]
    person = Person(urlsplit(link).port or 0)
    assert person.open(link).status_code == 200
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    other = link_of(process)
    assert other != link
    assert Person(person.port).open(link).status_code == 403
    assert Person(person.port).open(other).status_code == 200
    process.terminate()
    assert process.wait(timeout=20) == 0
    assert process.stdout is not None
    left = process.stdout.read()
    assert "Traceback" not in left
    assert "/enter/" not in left
    assert not page.exists()


def test_a_taken_port_and_a_folder_without_site_are_sentences(home: Path, tmp_path: Path, cdtl: Cdtl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cdtl("site", "desk", home, "--port", taken.getsockname()[1])
    assert done.code == 3
    assert "on this machine cannot be opened (Address already in use): choose another with --port." in done.err
    assert cdtl("site", "desk", tmp_path / "nothing").code == 3
