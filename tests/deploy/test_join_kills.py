"""A deployed run whose programs are killed, or whose sites are away: what it costs, and what is said."""

import time
from pathlib import Path

import psutil
import pytest

from tests.deploy.conftest import Figures
from tests.deploy.deployment import MODEL
from tests.deploy.joined import ALL, Make, Tiny, expect_models_of, make, under_way

__all__ = ["make"]
pytestmark = pytest.mark.slow
KILLS = {
    "a site": "alba",
    "the SuperLink": "flower-superlink",
    "the gateway": "cdtl_core.deploy.gateway",
    "the coordinator": "coordinator",
}


@pytest.mark.parametrize("who", [pytest.param(who, marks=pytest.mark.ci) if "coor" in who else who for who in KILLS])
def test_a_kill_in_mid_round_costs_one_round_at_most_and_changes_no_model(
    who: str, tiny: Tiny, make: Make, tmp_path: Path, figures: Figures
) -> None:
    config = tiny(**ALL)
    deployment, run = under_way(make(config), config)
    deployment.in_round(run, 2)
    began = time.monotonic()
    if KILLS[who] in {"alba", "coordinator"}:
        deployment.kill(KILLS[who])
        deployment.start(KILLS[who])
    else:
        psutil.Process(deployment.program("coordinator", KILLS[who])).kill()
    assert deployment.ended(run) == "completed", deployment.story()
    figures(f"kill -9 of {who} in round 2 of 3: to the end", f"{time.monotonic() - began:.0f} s")
    lines = deployment.lines(run)
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert all(not line["refused"] and not line["absent"] for line in lines[:3]), lines
    deployment.stop()
    expect_models_of(config, deployment, tmp_path / "simulated")


def test_a_site_that_is_away_is_named_and_takes_part_again_when_it_is_back(
    tiny: Tiny, make: Make, figures: Figures
) -> None:
    config = tiny(
        model=MODEL, federation={"rounds": 6, "min_sites": 2, "round_timeout_s": 200.0, "join_timeout_s": 200.0}
    )
    deployment, run = under_way(make(config), config)
    deployment.in_round(run, 2)
    deployment.kill("bari")
    deployment.until(lambda: bool(deployment.lines(run)[-1].get("refused")), 200.0, "a round without bari")
    without = deployment.lines(run)[-1]
    assert without["refused"] in ({"bari": "not connected"}, {"bari": "lost in this round"})
    assert set(without["sites"]) == {"alba", "como"}
    deployment.start("bari")
    assert deployment.ended(run) == "completed", deployment.story()
    assert any("bari" in line["sites"] for line in deployment.lines(run)[:-1] if line["round"] > without["round"])
    assert (deployment.homes["bari"] / "models" / "tiny-cdtl" / "model.safetensors").exists()
    deployment.stop()


def test_a_run_whose_site_never_ends_is_incomplete_and_says_who(tiny: Tiny, make: Make) -> None:
    config = tiny(
        model=MODEL, federation={"rounds": 3, "min_sites": 2, "round_timeout_s": 45.0, "join_timeout_s": 200.0}
    )
    deployment, run = under_way(make(config), config)
    deployment.in_round(run, 3)
    deployment.kill("bari")
    assert deployment.ended(run) == "incomplete", deployment.story()
    assert "bari" in deployment.lines(run)[-1]["missing"]
    deployment.stop()
