"""Filter and node as two services, with hostile approved code: it trains, and reaches nothing else."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.deploy.link import NODE_FOLDERS
from cdtl_core.deploy.sandbox import sandbox_fault
from cdtl_core.deploy.separation import noted_separation
from cdtl_core.deploy.status import node_status, site_status
from tests.deploy.deployment import MODEL, Deployment
from tests.tables import Tries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(sandbox_fault()), reason=f"no sandbox here: {sandbox_fault()}"),
]
HOSTILE = Path(__file__).with_name("hostile_code.py")
# Flower imports the app's module for every message, so the attack has run before the first reply leaves.
CALL = """
import os as _os, runpy as _runpy, json as _json
_place = _os.environ["CDTL_HOME"]
_found = _runpy.run_path(_os.path.join(_os.path.dirname(__file__), "hostile_code.py"))["attack"](_json.loads({facts!r}))
open(_os.path.join(_place, "models", "found.json"), "w").write(_json.dumps(_found))
"""


@pytest.fixture
def deployment(tiny: Callable[..., SimulationConfig], tmp_path: Path) -> Iterator[tuple[Deployment, SimulationConfig]]:
    terms = {"rounds": 1, "min_sites": 1, "round_timeout_s": 200.0, "join_timeout_s": 200.0}
    config = tiny(
        model=MODEL,
        sites=[{"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}],
        federation=terms,
    )
    made = Deployment(tmp_path, list(config.sites), config.of_method("fedbn"))
    yield made, config
    made.end()


@pytest.mark.ci
@pytest.mark.attack("Code cannot reach keys, network", "approved hostile ClientApp, deployed")
def test_approved_code_that_attacks_its_site_in_mid_training_gets_nothing(
    deployment: tuple[Deployment, SimulationConfig], tries: Tries
) -> None:
    made, config = deployment
    home = made.homes["alba"]
    run = made.request(config.of_method("fedbn"))
    made.start("coordinator")
    made.start("alba", "filter")
    made.start("alba", "node")
    made.until(lambda: node_status(home)["running"] and site_status(home)["running"], 240.0, "both parts of the site")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        facts = known(home, made, listener)
        before = {path: path.read_bytes() for path in map(Path, facts["files"])}  # type: ignore[call-overload]
        (run / "app" / "client" / "hostile_code.py").write_text(HOSTILE.read_text())
        made.alter(run, "client/app.py", CALL.format(facts=json.dumps(facts)))
        made.approve(run)
        made.play(run)
        assert made.ended(run) == "completed", made.story()
    found = json.loads((home / "models" / "found.json").read_text())
    tries.add(len(found))
    assert len(found) > 60
    assert {name: got for name, got in found.items() if got} == {}
    assert before == {path: path.read_bytes() for path in before}
    separation = noted_separation(home)
    assert separation is not None
    assert separation.kind == "sandbox"
    assert site_status(home)["separation"] == separation.text
    made.stop()


def known(home: Path, made: Deployment, listener: socket.socket) -> dict[str, object]:
    """Return the knowledge of an attacker: every path, port and process of this deployment."""
    files = [home / "site.toml", home / "patient.key", home / "site.key", home / "site.crt", home / "coordinator.json"]
    secrets = [*files[2:], made.coordinator / "tls" / "ca.crt", home / "approvals.jsonl"]
    return {
        "mounts": str(Path("/proc/self/ns/mnt").readlink()),
        "home": str(home),
        "secrets": [*map(str, secrets), "/etc/shadow"],
        "files": list(map(str, files)),
        "folders": [str(home), str(home / "link"), "/usr", "/etc"],
        "hidden": [str(home / "approvals"), str(home / "logs"), str(made.coordinator)],
        "listeners": [("127.0.0.1", made.port), listener.getsockname(), ("localhost", made.port)],
        "sockets": ["/run/systemd/private", str(home / "link" / "other.sock")],
        "pids": [made.pid("alba"), made.pid("alba-node"), os.getpid()],
    }


def test_the_folders_of_the_node_are_there_before_it_starts(deployment: tuple[Deployment, SimulationConfig]) -> None:
    made, _ = deployment
    made.start("coordinator")
    made.start("alba", "filter")
    home = made.homes["alba"]
    made.until(lambda: (home / "link" / "gate.sock").exists(), 240.0, "the filter's socket")
    assert all((home / name).is_dir() for name in (*NODE_FOLDERS, "node"))
    assert not {path.name for path in (home / "link").iterdir()} & {"site.key", "client.key", "site.crt"}
    assert (home / "link" / "site.toml").stat().st_mode & 0o777 == 0o640
    made.stop()
