"""A deployed run is resumed after a kill -9, evaluated again, and started again from its first round."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.deploy.approval_list import approvals
from cdtl_core.deploy.runs import load_run_state
from cdtl_core.deploy.used import used_of
from cdtl_core.federation.limits import Used
from tests.deploy.deployment import MODEL, Deployment

Tiny = Callable[..., SimulationConfig]


def used_at(home: Path) -> Used:
    (name,) = approvals(home)
    return used_of(home, name)


@pytest.mark.slow
@pytest.mark.attack("An approval has limits", "a deployed run is played again")
def test_a_resume_is_the_same_run_and_a_run_that_is_played_again_is_refused_by_name(tiny: Tiny, tmp_path: Path) -> None:
    # Three rounds: going back one round is a resume, so a run of two played again would count as one.
    limits = {"min_sites": 2, "round_timeout_s": 400.0, "join_timeout_s": 400.0}
    config = tiny(model=MODEL, federation=limits)
    run = config.of_method("cdtl")
    deployment = Deployment(tmp_path, [config.sites[0], config.sites[2]], run)
    try:
        deployment.start_all()
        place = deployment.request(run)
        deployment.approve(place)
        deployment.play(place)
        deployment.in_round(place, 2)
        deployment.kill("coordinator")
        deployment.start("coordinator")
        assert deployment.ended(place) == "completed", deployment.story()
        deployment.play_again(place)
        assert deployment.ended(place) == "completed", deployment.story()
        for home in deployment.homes.values():
            used = used_at(home)
            assert (used.run, used.last_round) == (1, 3)
            assert [one.answers for one in used.evaluations] == [2]
        shutil.rmtree(place / "checkpoints")
        deployment.play_again(place)
        assert deployment.ended(place) == "failed", deployment.story()
        state = load_run_state(place)
        assert state is not None
        assert state.reason.count("has not approved that the run is played again") == 2
        assert all(used_at(home).run == 1 for home in deployment.homes.values())
        deployment.stop()
    finally:
        deployment.end()
