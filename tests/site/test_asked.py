"""The approved code itself refuses orders beyond the approval, in case the filter lets one pass."""

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
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import Weights, weights_hash
from cdtl_core.site import session

Tiny = Callable[..., SimulationConfig]


@pytest.fixture
def site(tiny: Tiny, tmp_path: Path) -> tuple[Path, RunConfig, Weights]:
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    save_toml(tmp_path / "site.toml", tree)
    run = tiny(federation={"rounds": 2}).run
    initial_weights = build_initial_weights(run.model, run.seed, run.image.size)
    limits = run.limits.model_copy(update={"initial_weights_hash": weights_hash(initial_weights)})
    return tmp_path, run.model_copy(update={"limits": limits}), initial_weights


def order(initial_weights: Weights, round: int, *, offset: float | None = None) -> RecordDict:
    weights: Weights = {}
    if offset is not None:
        name = next(name for name, value in initial_weights.items() if value.ndim == 4)
        weights = {name: torch.full(initial_weights[name].shape, offset, dtype=torch.float16)}
    content = wire.encode_order(RoundOrder(round, weights, True), weights_hash(initial_weights))
    content.update(wire.encode_initial_weights(initial_weights))
    return content


@pytest.mark.attack("An approval has limits", "orders that reach the approved code itself")
def test_the_code_itself_keeps_to_the_limits(site: tuple[Path, RunConfig, Weights], tries: Any) -> None:
    home, run, initial_weights = site
    session.train_round(order(initial_weights, 1), home, run)
    other = {**initial_weights, "backbone.more": torch.ones(1)}
    for round, weights in ((777, initial_weights), (3, initial_weights), (2, other)):
        with pytest.raises(CdtlError):
            session.train_round(order(weights, round), home, run)
        tries.add()
    assert [path.stem for path in (home / "initial_weights").iterdir()] == [weights_hash(initial_weights)]
    session.train_round(order(initial_weights, 2), home, run)
    with pytest.raises(CdtlError):
        session.finish_run(order(initial_weights, 777), home, run)
    first = session.finish_run(order(initial_weights, 3), home, run)
    assert session.finish_run(order(initial_weights, 3), home, run)["final"] == first["final"]
    for act, round in ((session.finish_run, 3), (session.train_round, 1)):
        with pytest.raises(PrivacyError, match=r"limits\.(evaluations|runs)"):
            act(order(initial_weights, round, offset=0.01), home, run)
        tries.add()
    tries.add(1)


def test_the_only_start_that_a_site_accepts_is_checked_at_the_site(site: tuple[Path, RunConfig, Weights]) -> None:
    home, run, initial_weights = site
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    save_toml(home / "site.toml", {**tree, "publish": {"initial_weights_hash": "b" * 64}})
    with pytest.raises(PrivacyError, match=r"publish\.initial_weights_hash in site\.toml accepts"):
        session.train_round(order(initial_weights, 1), home, run)
    assert not (home / "initial_weights").exists()
