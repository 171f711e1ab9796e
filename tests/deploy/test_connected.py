"""Connected means that a message passed a moment ago, on both screens."""

import time
from pathlib import Path

import pytest

from cdtl_core.config.settings import save_toml
from cdtl_core.deploy.authority import make_coordinator
from cdtl_core.deploy.egress_filter.status import Status, read_status
from cdtl_core.deploy.members import admit
from cdtl_core.deploy.server_config import ServerConfig
from cdtl_core.deploy.service import running_service
from cdtl_core.deploy.status import coordinator_status, site_status
from cdtl_core.system.durable import replace_json
from tests.deploy.entrance import Coordinator, Enrol
from tests.tables import Tries

PROPERTY = "connected means that a message went through"


class Clock:
    now = 1.8e9

    def __call__(self) -> float:
        return self.now


@pytest.mark.attack(PROPERTY, "the gateway answers, the SuperLink does not")
@pytest.mark.parametrize(("status", "connected"), [(200, True), (503, False), (504, False), (401, False)])
def test_only_an_answer_of_the_superlink_makes_a_site_connected(tmp_path: Path, status: int, connected: bool) -> None:
    own = Status(tmp_path, Clock())
    own.contact(200)
    own.contact(status)
    own.write(force=True)
    assert read_status(tmp_path)["connected"] is connected


def test_a_refused_request_says_nothing_about_the_connection(tmp_path: Path) -> None:
    clock = Clock()
    own = Status(tmp_path, clock)
    own.contact(200)
    clock.now += 10
    own.contact(403)
    own.write(force=True)
    assert (read_status(tmp_path)["connected"], read_status(tmp_path)["last_contact"]) == (True, 1.8e9)


@pytest.mark.attack(PROPERTY, "silence since the last heartbeat")
def test_a_site_is_connected_for_one_heartbeat_after_its_last_message(tmp_path: Path, tries: Tries) -> None:
    save_toml(tmp_path / "site.toml", {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}})
    with running_service(tmp_path):
        for ago, connected in ((5.0, True), (40.0, True), (50.0, False), (3600.0, False)):
            replace_json(tmp_path / "gate.json", {"connected": True, "last_contact": time.time() - ago})
            assert site_status(tmp_path)["connected"] is connected
            tries.add()
    assert not site_status(tmp_path)["connected"]


@pytest.mark.attack(PROPERTY, "silence since the last heartbeat")
def test_the_coordinator_says_the_same(tmp_path: Path, enrol: Enrol, tries: Tries) -> None:
    folder = tmp_path / "coordinator"
    make_coordinator(folder, ServerConfig(names=("localhost",), host="127.0.0.1", port=8443))
    admit(folder, enrol("north"))
    with running_service(folder):
        for ago, connected in ((5.0, True), (40.0, True), (50.0, False)):
            replace_json(folder / "seen.json", {"north": time.time() - ago})
            assert coordinator_status(folder)["sites"]["north"]["connected"] is connected
            tries.add()


@pytest.mark.attack(PROPERTY, "requests that the gateway refuses")
def test_a_site_whose_requests_are_refused_is_not_seen(north: Coordinator) -> None:
    assert north.ask("north", node=7).status_code == 401
    north.superlink.cut = True
    assert north.ask("north").status_code == 502
    north.stack.close()  # what was seen is written at the latest when the gateway stops
    assert not (north.home / "seen.json").exists()
