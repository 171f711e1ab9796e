"""`cdtl server init` is killed at any moment and repeated, as in a Kubernetes init container."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.deploy.authority import make_coordinator
from cdtl_core.deploy.certificates import load_credential
from cdtl_core.deploy.server_config import ServerConfig, load_server
from cdtl_core.errors import CheckpointError

CONFIG = ServerConfig(names=("coordinator",))
WRITES = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove"}


def killed_at(number: int, folder: Path) -> bool:
    """Whether a child that makes a coordinator in `folder` reached its write `number`, at which it is killed."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    seen = 0

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in WRITES and str(folder) in str(details[0]):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(count)
        make_coordinator(folder, CONFIG)
    finally:
        os._exit(0)


@pytest.mark.attack("an interrupted server init can be repeated", "kill -9 at each file operation")
def test_an_init_that_was_killed_anywhere_succeeds_when_it_is_repeated(tmp_path: Path, tries: Any) -> None:
    number, settled = 1, 0
    while killed_at(number, folder := tmp_path / str(number) / "coordinator"):
        if (folder / "server.toml").exists():  # what the init container asks before it repeats the command
            settled += 1
        else:
            make_coordinator(folder, CONFIG)
        assert load_server(folder) == CONFIG
        load_credential(folder / "tls" / "ca.crt", folder / "authority" / "ca.key")
        parts = {"authority", "tls", "sites", "runs", "logs", "server.toml"}
        assert {path.name for path in folder.iterdir()} - {".init"} == parts
        number += 1
    tries.add(number - 1)
    assert number > 20
    assert settled <= 2


def test_a_fresh_volume_with_lost_and_found_is_taken_and_anything_else_is_not(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "lost+found").mkdir(parents=True)
    make_coordinator(volume, CONFIG)
    assert load_server(volume) == CONFIG
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("hello")
    for folder in (volume, tmp_path / "letters", tmp_path / "letters" / "a.txt"):
        with pytest.raises(CheckpointError, match="is not empty"):
            make_coordinator(folder, CONFIG)


def test_half_a_coordinator_of_other_settings_is_not_finished_silently(tmp_path: Path) -> None:
    number, folder = 1, tmp_path / "0"
    while not (folder / "tls").exists():
        killed_at(number, folder := tmp_path / str(number))
        number += 1
    with pytest.raises(CheckpointError, match="repeat the command"):
        make_coordinator(folder, ServerConfig(names=("elsewhere",)))
    make_coordinator(folder, CONFIG)
    assert load_server(folder) == CONFIG
