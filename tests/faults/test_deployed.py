"""Random kills, stops, cuts and slow lines between real processes: the models equal undisturbed ones."""

import json
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.coordinator.admission import enrolled_contracts
from tests.deploy.deployment import MODEL, Deployment
from tests.deploy.joined import Make, Tiny, make
from tests.faults.link import Link
from tests.faults.rig import Fault

__all__ = ["make"]
pytestmark = pytest.mark.slow
Line = Callable[[str], Fault]
Whole = Callable[[SimulationConfig], Path]
LIMITS = {"min_sites": 3, "round_timeout_s": 400.0, "join_timeout_s": 400.0}
PROGRAMS = {"flower-superlink": "coordinator", "cdtl_core.deploy.gateway": "coordinator", "node_supernode.py": "bari"}


def under_way(deployment: Deployment, config: SimulationConfig) -> Path:
    deployment.start_all()
    run = deployment.request(config.of_method("cdtl"))
    deployment.approve(run)
    deployment.play(run)
    deployment.in_round(run, 1)
    return run


def compare(line: Fault, deployment: Deployment, run: Path, whole: Path, tries: int) -> None:
    """Count: models byte for byte those of the undisturbed simulation, and every update of it in the journal."""
    line.tried += tries
    expected = [json.loads(text) for text in (whole / "rounds.jsonl").read_text().splitlines()]
    found = deployment.lines(run)
    assert set(enrolled_contracts(RunFolder(run))) == set(deployment.homes)
    assert [one["round"] for one in found] == [one["round"] for one in expected]
    said = {(a["round"], s): figures["val_loss"] for a in found for s, figures in a.get("sites", {}).items()}
    due = {(a["round"], s): figures["val_loss"] for a in expected for s, figures in a.get("sites", {}).items()}
    lost = [key for key, value in due.items() if said.get(key) != value]
    line.lost += len(lost)
    assert not lost, (lost, deployment.story())
    log = (deployment.coordinator / "logs" / "service.log").read_text()
    line.repeated = (line.repeated or 0) + max(log.count("as Flower run") - 1, 0)
    for site, home in deployment.homes.items():
        name = Path("models") / "tiny-cdtl" / "model.safetensors"
        assert (home / name).read_bytes() == (whole / "sites" / site / name).read_bytes(), site
    line.survived += tries


@pytest.mark.parametrize(("seed", "kills"), [(0, 8)])
def test_services_and_programs_killed_at_random(
    seed: int, kills: int, tiny: Tiny, make: Make, whole: Whole, fault: Line
) -> None:
    config, choose, pause = (
        tiny(model=MODEL, federation={"rounds": 5, **LIMITS}),
        random.Random(seed),
        threading.Event(),
    )
    deployment = make(config)
    run = under_way(deployment, config)
    done = 0
    for _ in range(kills):
        pause.wait(choose.uniform(0.0, 12.0))  # the random moment is the point
        if (run / "outcome.json").exists():
            break
        strike(deployment, choose.choice([*deployment.homes, "coordinator", *PROGRAMS]))
        done += 1
    assert deployment.ended(run, timeout_s=600.0) == "completed", deployment.story()
    deployment.stop()
    line = fault("kill -9, real processes")
    line.kills += done
    compare(line, deployment, run, whole(config), done)


def strike(deployment: Deployment, victim: str) -> None:
    """Kill -9 a service, which is started again as systemd would, or one of its programs, which it starts again."""
    if victim not in PROGRAMS:
        deployment.kill(victim)
        deployment.start(victim)
        return
    try:
        psutil.Process(deployment.program(PROGRAMS[victim], victim)).kill()
    except (StopIteration, psutil.Error):  # it is just being started again: kill its service instead
        deployment.kill(PROGRAMS[victim])
        deployment.start(PROGRAMS[victim])


def test_programs_that_are_stopped_for_a_while(tiny: Tiny, make: Make, whole: Whole, fault: Line) -> None:
    config, choose = tiny(model=MODEL, federation={"rounds": 4, **LIMITS}), random.Random(5)
    deployment = make(config)
    run = under_way(deployment, config)
    stops = 0
    for name in ("node_supernode.py", "flower-superlink", "coordinator", "alba"):
        if (run / "outcome.json").exists():
            break
        pid = deployment.program(PROGRAMS[name], name) if name in PROGRAMS else deployment.pid(name)
        os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(choose.uniform(1.0, 4.0))
        os.kill(pid, signal.SIGCONT)
        stops += 1
    assert stops > 0
    assert deployment.ended(run, timeout_s=600.0) == "completed", deployment.story()
    deployment.stop()
    compare(fault("stop and continue, real processes"), deployment, run, whole(config), stops)


def test_a_line_that_is_slow_and_then_cut_for_half_a_minute(tiny: Tiny, make: Make, whole: Whole, fault: Line) -> None:
    config = tiny(model=MODEL, federation={"rounds": 4, **LIMITS})
    deployment = make(config)
    with Link(deployment.port).carrying() as link:
        link.bytes_per_s, link.delay_s = 400_000.0, 0.05
        deployment.ports["como"] = link.port
        run = under_way(deployment, config)
        deployment.in_round(run, 2)
        link.cut()
        threading.Event().wait(35.0)  # as long as the cut is to last
        link.repair()
        assert deployment.ended(run, timeout_s=600.0) == "completed", deployment.story()
        assert link.carried > 100_000
        deployment.stop()
    compare(fault("slow link"), deployment, run, whole(config), 1)
    line = fault("link cut for 35 s")
    line.tried, line.survived = line.tried + 1, line.survived + 1
