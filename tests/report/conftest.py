"""One tiny simulation, and one tiny run between hospitals as its folders on disk."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from cdtl_core.config import RunConfig, SimulationConfig, SiteConfig
from cdtl_core.config.settings import flatten
from cdtl_core.coordinator.app import app as server_app
from cdtl_core.deploy.approvals import approve
from cdtl_core.deploy.authority import make_coordinator
from cdtl_core.deploy.egress_filter.egress_log import EgressLog
from cdtl_core.deploy.enrolling import enrol_site, make_site
from cdtl_core.deploy.link import Link
from cdtl_core.deploy.members import admit
from cdtl_core.deploy.preparing import prepare_run
from cdtl_core.deploy.runs import RunState, save_run_state
from cdtl_core.deploy.server_config import ServerConfig
from cdtl_core.simulation.inprocess import run_in_process
from cdtl_core.simulation.simulate import simulate
from cdtl_core.site.app import app as client_app
from tests.conftest import TINY_RUN

NASTY = "<script>alert('x')</script>"
SITES = [
    {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 48, "seed": 1}}},
    {"site": "como", "modality": "histology", "data": {"phantom": {"patients": 12, "seed": 3}}},
]


def _simulation(**changes: object) -> SimulationConfig:
    sites = [{**site, "data": {**site["data"], **changes.get("data", {})}} for site in SITES]  # type: ignore[dict-item]
    run = {**TINY_RUN, **{key: value for key, value in changes.items() if key not in {"data", "methods"}}}
    methods = changes.get("methods", ("alone", "cdtl"))
    return SimulationConfig.model_validate({"run": run, "methods": methods, "sites": sites})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a finished simulation."""
    out = tmp_path_factory.mktemp("simulation") / "tiny"
    simulate(_simulation(), out)
    return out


@pytest.fixture(scope="session")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished simulation whose positive label is markup."""
    out = tmp_path_factory.mktemp("nasty") / "tiny"
    config = _simulation(
        methods=("cdtl",),
        task={"labels": ("benign", NASTY), "positive": NASTY},
        data={"label_map": {"malignant": NASTY}},
        federation={"rounds": 2},
    )
    simulate(config, out)
    return out


@dataclass
class Hospitals:
    """A coordinator's folder, its run, and the sites' folders."""

    coordinator: Path
    run: Path
    homes: dict[str, Path]


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    """A run between hospitals that has ended; the processes are played in one, the folders are the real ones."""
    folder = tmp_path_factory.mktemp("hospitals")
    config = RunConfig.model_validate({**TINY_RUN, "name": "study", "federation": {"rounds": 2}})
    make_coordinator(folder / "coordinator", ServerConfig(names=("localhost",)))
    own = {site["site"]: SiteConfig.model_validate(site) for site in SITES}
    homes = {str(name): folder / "hospitals" / str(name) for name in own}
    for name, home in homes.items():
        make_site(home, own[name])
        admit(folder / "coordinator", enrol_site(home, config))
    run, request, _ = prepare_run(folder / "coordinator", config)
    for name, home in homes.items():
        approve(home, request, own[name])
        Link(home).approved(request.settings, request.bundle_sha256)  # as its filter does when it hands the code over
        log = EgressLog(home)
        log.write("reply", run="study", type="train", round="1", bytes=1234, verdict="approved")
        log.count("push-messages", 4321)
        log.flush()
    played = RunConfig.model_validate_json(config.model_dump_json())
    settings = {**flatten(played), **request.settings}
    run_in_process(server_app, client_app, folder=run, homes=homes.values(), settings=settings)
    save_run_state(run, RunState(status="completed", queued_at=1.0))
    return Hospitals(folder / "coordinator", run, homes)


@pytest.fixture(scope="session")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished simulation with differential privacy at one site; the other is exempt."""
    out = tmp_path_factory.mktemp("private") / "tiny"
    run = {
        "dp": {"enabled": True, "target_epsilon": 4.0, "centre_steps": 2},
        "model": {**TINY_RUN["model"], "levels": [2, 3], "adapter": 3, "dropout": 0.0},
    }
    config = _simulation(methods=("cdtl",), **run)
    alba, como = config.sites
    exempt = como.model_copy(update={"privacy": como.privacy.model_copy(update={"exempt": True})})
    simulate(config.model_copy(update={"sites": (alba, exempt)}), out)
    return out
