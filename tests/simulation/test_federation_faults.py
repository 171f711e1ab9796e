"""Runs that cannot start, or fail on their way: the sentence, and what is left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.config.settings import flatten
from cdtl_core.coordinator.app import app as server_app
from cdtl_core.errors import CheckpointError, ConfigError, DataError, FederationError, ModelError
from cdtl_core.simulation.inprocess import run_in_process
from cdtl_core.simulation.simulate import resume_simulation, simulate
from cdtl_core.site.app import app as client_app
from tests.conftest import Played

Tiny = Callable[..., SimulationConfig]


def test_a_folder_in_use_or_not_empty_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(CheckpointError, match="not empty"):
        simulate(tiny(), tmp_path / "full")
    with pytest.raises(CheckpointError, match="holds no run"):
        resume_simulation(tmp_path / "full")
    (tmp_path / "early").mkdir()
    for name in (".lock", ".config.toml.draft"):  # of a run that was killed before its settings stood
        (tmp_path / "early" / name).touch()
    simulate(tiny(federation={"rounds": 1}, blend={"settle": 0}), tmp_path / "early")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        simulate(tiny(), tmp_path / "file")


def test_what_fails_before_training_leaves_nothing_behind(tiny: Tiny, tmp_path: Path) -> None:
    bad = [{"site": "alba", "modality": "ultrasound", "data": {"root": str(tmp_path), "manifest": "none.csv"}}]
    with pytest.raises(DataError, match="does not exist"):
        simulate(tiny(sites=bad, methods=("alone",)), tmp_path / "run")
    with pytest.raises(ConfigError, match="leave at least one round"):
        simulate(tiny(blend={"settle": 8}), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_site_that_fails_in_a_round_is_named_and_its_reason_stays_local(
    tiny: Tiny, played: Played, tmp_path: Path
) -> None:
    config = tiny()
    homes = sorted((played(config).copied(tmp_path / "run") / "sites").iterdir())
    (homes[2] / "site.toml").write_text('site = "como"\nmodality = "mri"\nsecret = "Mrs Rossi"\n')
    with pytest.raises(FederationError, match="ConfigError: the site could not continue") as caught:
        run_in_process(
            server_app,
            client_app,
            folder=tmp_path / "again",
            homes=homes,
            settings={**flatten(config.run), "federation.min_sites": 3},
        )
    assert "Rossi" not in str(caught.value)


def test_training_that_does_not_stay_finite_is_said_and_stops_the_run(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="site alba: the trained model holds values that are not finite"):
        simulate(tiny(train={"lr": 1e30}), tmp_path / "run")
