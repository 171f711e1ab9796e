"""256 strangers for a minute during a run of three sites, and a frozen gateway: real processes on loopback.

The flood test plays the same run twice, once in peace and once under the flood, and compares the times. No other test
runs beside it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.deploy.status import coordinator_status, site_status
from tests.deploy.conftest import Figures
from tests.deploy.deployment import MODEL, Deployment
from tests.tables import Tries

pytestmark = pytest.mark.slow
Tiny = Callable[..., SimulationConfig]
_SECONDS = 60.0
_MOST_GROWTH = 1.25  # 1.1 on a quiet machine
RUN = {"model": MODEL, "federation": {"rounds": 3, "min_sites": 3, "round_timeout_s": 120.0, "join_timeout_s": 120.0}}


@pytest.fixture(scope="module")
def deployment(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three sites, connected."""
    config = tiny(**RUN)
    made = Deployment(tmp_path_factory.mktemp("flood"), list(config.sites), config.of_method("cdtl"))
    try:
        made.start_all()
        made.connected()
        yield made
    finally:
        made.end()


def play(deployment: Deployment, config: SimulationConfig, name: str) -> float:
    """Seconds of a run from its start to its end."""
    run = deployment.request(config.of_method("cdtl").model_copy(update={"name": name}))
    deployment.approve(run)
    began = time.monotonic()
    deployment.play(run)
    assert deployment.ended(run, timeout_s=300.0) == "completed", deployment.story()
    return time.monotonic() - began


@pytest.mark.alone
@pytest.mark.attack("the gateway survives strangers", "256 connections for a minute during a run")
def test_a_run_goes_on_under_a_flood(tiny: Tiny, deployment: Deployment, figures: Figures, tries: Tries) -> None:
    config = tiny(**RUN)
    calm = play(deployment, config, "calm")
    gateway = psutil.Process(deployment.program("coordinator", "cdtl_core.deploy.gateway"))
    before, files = len(deployment.access_log()), gateway.num_fds()
    command = [sys.executable, "-m", "tests.deploy.strangers", str(deployment.port), str(deployment.ca), str(_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as strangers:
        try:
            time.sleep(2.0)  # all of them are inside
            flooded = play(deployment, config, "flooded")
            assert all(site["connected"] for site in coordinator_status(deployment.coordinator)["sites"].values())
            said, _ = strangers.communicate(timeout=_SECONDS + 30)
        finally:
            strangers.kill()
    answers = [line for line in deployment.access_log()[before:] if "site" in line]
    assert {line.get("status") for line in answers} == {200}, "a member's request was refused"
    assert deployment.program("coordinator", "cdtl_core.deploy.gateway") == gateway.pid, "the gateway was started again"
    deployment.until(lambda: gateway.num_fds() <= files + 16, 30.0, "the gateway to close the strangers' connections")
    figures("three sites, 3 rounds, in peace", f"{calm:.1f} s")
    figures(
        "the same under 256 strangers",
        f"{flooded:.1f} s ({flooded / calm:.2f} times); strangers saw {said.strip()}",
    )
    tries.add(256)
    if flooded >= _MOST_GROWTH * calm:  # other programs of this machine may have grown busy: in peace once more
        calm = max(calm, play(deployment, config, "calm again"))
    assert flooded < _MOST_GROWTH * calm


@pytest.mark.attack("the gateway survives strangers", "the gateway is stopped for good")
def test_a_frozen_gateway_is_seen_and_started_again(deployment: Deployment) -> None:
    home = next(iter(deployment.homes.values()))
    frozen = deployment.program("coordinator", "cdtl_core.deploy.gateway")
    os.kill(frozen, signal.SIGSTOP)

    def another() -> bool:
        try:
            return deployment.program("coordinator", "cdtl_core.deploy.gateway") != frozen
        except (StopIteration, psutil.Error):  # none, or a child that is ending
            return False

    deployment.until(lambda: not site_status(home)["connected"], 120.0, "a site that says so")
    deployment.until(another, 120.0, "another gateway")
    deployment.until(lambda: bool(site_status(home)["connected"]), 120.0, "the site")
    deployment.connected()
