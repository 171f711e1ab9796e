"""The approved code refuses by itself what the site has not approved, should the filter ever let it through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict

from cdtl_core.config import RunConfig, SimulationConfig
from cdtl_core.config.settings import save_toml
from cdtl_core.errors import CdtlError, PrivacyError
from cdtl_core.federation import wire
from cdtl_core.federation.site import RoundOrder
from cdtl_core.models.model import build_theta0
from cdtl_core.models.weights import Weights, weights_hash
from cdtl_core.site import session

Tiny = Callable[..., SimulationConfig]


@pytest.fixture
def site(tiny: Tiny, tmp_path: Path) -> tuple[Path, RunConfig, Weights]:
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    save_toml(tmp_path / "site.toml", tree)
    run = tiny(federation={"rounds": 2}).run
    theta0 = build_theta0(run.model, run.seed, run.image.size)
    limits = run.limits.model_copy(update={"theta0_hash": weights_hash(theta0)})
    return tmp_path, run.model_copy(update={"limits": limits}), theta0


def order(theta0: Weights, round: int, *, drift: float | None = None) -> RecordDict:
    weights: Weights = {}
    if drift is not None:
        name = next(name for name, value in theta0.items() if value.ndim == 4)
        weights = {name: torch.full(theta0[name].shape, drift, dtype=torch.float16)}
    content = wire.encode_order(RoundOrder(round, weights, True), weights_hash(theta0))
    content.update(wire.encode_theta0(theta0))
    return content


@pytest.mark.attack("An approval has limits", "orders that reach the approved code itself")
def test_the_code_itself_keeps_to_the_limits(site: tuple[Path, RunConfig, Weights], tries: Any) -> None:
    home, run, theta0 = site
    session.train_round(order(theta0, 1), home, run)
    other = {**theta0, "backbone.more": torch.ones(1)}
    for round, weights in ((777, theta0), (3, theta0), (2, other)):
        with pytest.raises(CdtlError):
            session.train_round(order(weights, round), home, run)
        tries.add()
    assert [path.stem for path in (home / "theta0").iterdir()] == [weights_hash(theta0)]
    session.train_round(order(theta0, 2), home, run)
    with pytest.raises(CdtlError):
        session.finish_run(order(theta0, 777), home, run)
    first = session.finish_run(order(theta0, 3), home, run)
    assert session.finish_run(order(theta0, 3), home, run)["final"] == first["final"]
    for act, round in ((session.finish_run, 3), (session.train_round, 1)):
        with pytest.raises(PrivacyError, match=r"limits\.(evaluations|runs)"):
            act(order(theta0, round, drift=0.01), home, run)
        tries.add()
    tries.add(1)


def test_the_only_start_that_a_site_accepts_is_checked_at_the_site(site: tuple[Path, RunConfig, Weights]) -> None:
    home, run, theta0 = site
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    save_toml(home / "site.toml", {**tree, "publish": {"theta0_hash": "b" * 64}})
    with pytest.raises(PrivacyError, match=r"publish\.theta0_hash in site\.toml accepts"):
        session.train_round(order(theta0, 1), home, run)
    assert not (home / "theta0").exists()
