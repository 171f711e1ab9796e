"""Files of earlier versions: each gives a sentence that names the new form, none a traceback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import RunConfig, SimulationConfig
from cdtl_core.config.settings import (
    flatten,
    load_run,
    load_simulation,
    load_site,
    save_toml,
    simulation_toml,
    unflatten,
)
from cdtl_core.errors import ConfigError
from cdtl_core.results.report import Bytes
from cdtl_core.simulation.simulate import resume_simulation, simulate

SITES = """
[[sites]]
site = "north"
modality = "mri"
data.phantom = { patients = 16 }
"""
OLD = [
    ("[gate]\nstandard_errors = 2.0", r"gate\.\*: write model_selection\.\*"),
    ('methods = ["alone", "fedavg", "cdtl"]', '"fedavg" among the methods: write "fedbn"'),
    ('methods = "fedavg,cdtl"', '"fedavg" among the methods: write "fedbn"'),
]


@pytest.mark.parametrize(("text", "sentence"), OLD)
def test_a_simulation_of_an_earlier_version_says_what_to_write(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "old.toml"
    path.write_text(text + SITES)
    with pytest.raises(ConfigError, match=rf"is of an earlier version of cdtl.*{sentence}"):
        load_simulation(path)


def test_a_runs_settings_and_a_sites_lock_say_it_too(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text('method = "fedavg"')
    with pytest.raises(ConfigError, match='method = "fedavg": write "fedbn"'):
        load_run(path)
    with pytest.raises(ConfigError, match=r"write model_selection\.\*"):
        load_run(path, ["method=cdtl", "gate.enabled=false"])
    with pytest.raises(ConfigError, match=r"write model_selection\.\*"):
        unflatten(flatten(RunConfig()) | {"gate.enabled": True})
    for lock in ('lock."gate.enabled" = true', "[lock.gate]\nenabled = true", '[lock]\n"gate.standard_errors" = 1.0'):
        path.write_text(f'site = "north"\nmodality = "mri"\ndata.manifest = "m.csv"\n{lock}')
        with pytest.raises(ConfigError, match=r"lock\.gate\.\*: write lock\.model_selection\.\*"):
            load_site(path)


def test_a_setting_that_never_was_is_unknown_and_no_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    path.write_text("gates = 1" + SITES)
    with pytest.raises(ConfigError, match=r"gates in .* is unknown"):
        load_simulation(path)


def test_the_hash_of_the_initial_weights_is_read_under_its_former_name(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f'limits.theta0_hash = "{"a" * 64}"')
    assert load_run(tmp_path / "run.toml").limits.initial_weights_hash == "a" * 64
    (tmp_path / "site.toml").write_text(
        f'site = "north"\nmodality = "mri"\ndata.manifest = "m.csv"\npublish.theta0_hash = "{"b" * 64}"'
    )
    assert load_site(tmp_path / "site.toml").publish.initial_weights_hash == "b" * 64
    assert Bytes.model_validate({"sent": 1, "received": 2, "theta0_received": 3}).initial_weights_received == 3


def as_earlier(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings as an earlier version wrote them into a run's folder."""
    rest = {key: value for key, value in tree.items() if key not in {"pool", "model_selection"}}
    return {**rest, "methods": ["alone", "fedavg", "cdtl"], "gate": {"enabled": True, "standard_errors": 1.0}}


@pytest.mark.integration
def test_a_run_folder_of_an_earlier_version_is_left_to_that_version(
    tiny: Callable[..., SimulationConfig], tmp_path: Path, cdtl: Callable[..., Any]
) -> None:
    out = tmp_path / "run"
    simulate(tiny(federation={"rounds": 1}, blend={"settle": 0}), out)
    save_toml(out / "config.toml", as_earlier(simulation_toml(load_simulation(out / "config.toml"))))
    with pytest.raises(ConfigError, match=r"run was written by an earlier version of cdtl.*in a new folder"):
        resume_simulation(out)
    done = cdtl("report", out)
    assert done.code > 0
    assert "written by an earlier version" in done.err
    assert "Traceback" not in done.err
    card = out / "sites" / "alba" / "models" / "tiny-cdtl" / "model_card.json"
    told = json.loads(card.read_text())
    told["config"] = {key: value for key, value in told["config"].items() if not key.startswith(("pool.", "model_s"))}
    card.write_text(json.dumps(told | {"config": told["config"] | {"gate.enabled": True}}))
    done = cdtl("report", out / "sites" / "alba")
    assert done.code > 0
    assert "the run tiny in" in done.err
    assert "made with another version of cdtl" in done.err
