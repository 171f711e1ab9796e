"""Deployments of three sites for the tests: started, joined, with a run under way."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.simulation.simulate import simulate
from tests.deploy.deployment import MODEL, Deployment

Tiny = Callable[..., SimulationConfig]
ALL = {"model": MODEL, "federation": {"rounds": 3, "min_sites": 3, "round_timeout_s": 200.0, "join_timeout_s": 200.0}}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[SimulationConfig], Deployment]]:
    made: list[Deployment] = []

    def build(config: SimulationConfig) -> Deployment:
        made.append(Deployment(tmp_path, list(config.sites), config.of_method("cdtl")))
        return made[-1]

    yield build
    for deployment in made:
        deployment.end()


Make = Callable[[SimulationConfig], Deployment]


def under_way(deployment: Deployment, config: SimulationConfig) -> tuple[Deployment, Path]:
    """Everybody started, a run asked for and approved everywhere."""
    deployment.start_all()
    run = deployment.request(config.of_method("cdtl"))
    deployment.approve(run)
    deployment.play(run)
    return deployment, run


def expect_models_of(config: SimulationConfig, deployment: Deployment, out: Path) -> None:
    """Every site's model, byte for byte, is the one of a simulation with the same seed."""
    simulate(config, out)
    for site, home in deployment.homes.items():
        for name in ("model.safetensors", "scores.csv"):
            simulated = out / "sites" / site / "models" / "tiny-cdtl" / name
            assert (home / "models" / "tiny-cdtl" / name).read_bytes() == simulated.read_bytes(), (site, name)
