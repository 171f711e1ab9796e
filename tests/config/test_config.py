"""Settings: one definition, one way to write a key, one sentence for a wrong value."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import RunConfig, SimulationConfig, SiteConfig
from cdtl_core.config.settings import flatten, load_simulation, save_toml, simulation_toml, unflatten
from cdtl_core.errors import CdtlError, ConfigError, error_of_code
from cdtl_core.system.shipped import bundle_root, find_config

MINIMAL = """
name = "mini"
[train]
steps = 3
[data]
root = "images"
[[sites]]
site = "north"
modality = "ultrasound"
data.manifest = "n.csv"
[[sites]]
site = "south"
modality = "mri"
data.phantom = { patients = 20 }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "mini.toml").write_text(MINIMAL)
    return tmp_path / "mini.toml"


def test_a_file_gives_run_and_sites_and_shared_data(path: Path) -> None:
    config = load_simulation(path)
    assert (config.run.name, config.run.train.steps, config.run.train.batch_size) == ("mini", 3, 24)
    assert [site.data.root for site in config.sites] == [path.parent / "images", Path()]  # phantoms need no folder


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("train.lr=0.01", lambda c: c.run.train.lr, 0.01),
        ("blend.policy=fixed", lambda c: c.run.blend.policy, "fixed"),
        ('blend.donors={mri=["ultrasound"]}', lambda c: c.run.blend.donors, {"mri": ("ultrasound",)}),
        ("data.root=/else where", lambda c: c.sites[0].data.root, Path("/else where")),
        ("sites.north.data.root=own", lambda c: c.sites[0].data.root, Path("own")),
        ("methods=alone,cdtl", lambda c: c.methods, ("alone", "cdtl")),
        ('methods=["alone"]', lambda c: c.methods, ("alone",)),
        ("share.head=false", lambda c: c.run.share.head, False),
    ],
)
def test_any_setting_can_be_overridden(
    path: Path, override: str, read: Callable[[SimulationConfig], Any], expected: object
) -> None:
    assert read(load_simulation(path, [override])) == expected


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.lrr=1", r"train\.lrr .*is unknown, got 1: did you mean train\.lr\?"),
        ("trian.lr=1", r"trian .*is unknown.*: did you mean train\?"),
        ("sites.north.modalty=x", r"did you mean sites\.north\.modality\?"),
        ("wubble=1", r"wubble .*is unknown, got 1; remove it"),
        ("train.lr=fast", r"train\.lr .*got 'fast'"),
        ("train.lr=-1", r"train\.lr .*above 0"),
        ("train=5", "train"),
        ("nonsense", "is not a setting"),
        ("sites.west.modality=mri", "no site 'west'"),
        ("seed.x=1", "seed"),
        ("model_selection.standard_errors=inf", r"model_selection\.standard_errors .*finite"),
        ("blend.retention_min=0.99", "retention_min 0.99 is above"),
        ("method=alone", "list the methods to compare"),
        ("data=5", "must be a table"),
        ("sites=5", "must be a list of tables"),
        ("sites.north.data=3", r"sites\.north\.data"),
        ('sites.north.labels=["malignant"]', r"sites\.north\.labels"),
        ("task.positive=odd", "must be one of"),
        ("methods=magic", "methods"),
        ("sites.north.modality=xrays", "modality 'xrays' is unknown"),
        ("sites.north.site=south", "must be distinct"),
        ("sites.north.data.phantom={patients=20}", "either"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_simulation(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"[train\n", b"\xff\xfe"])
def test_a_file_that_is_missing_or_no_toml_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.toml"):
        load_simulation(tmp_path / "x.toml")


def test_what_is_saved_is_read_back_equal(path: Path, tmp_path: Path) -> None:
    config = load_simulation(path, ['blend.donors={mri=["ultrasound"]}'])
    save_toml(tmp_path / "saved.toml", simulation_toml(config))
    assert load_simulation(tmp_path / "saved.toml") == config


def test_flowers_flat_scalars_give_the_same_run() -> None:
    run = RunConfig.model_validate(
        {"blend": {"donors": {"mri": ["ct"]}}, "task": {"labels": ["a", "b"], "positive": "b"}}
    )
    flat = flatten(run)
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
    assert unflatten(flat) == run
    with pytest.raises(ConfigError, match="unknown"):
        unflatten({"train.nonsense": 1})


def test_pyprojects_mirror_equals_the_defaults() -> None:
    """Flower lets only declared keys be overridden; the declared values must be the real defaults."""
    tree = tomllib.loads((bundle_root() / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]

    def leaves(prefix: str, node: dict[str, Any]) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in node.items():
            flat |= leaves(f"{prefix}{key}.", value) if isinstance(value, dict) else {prefix + key: value}
        return flat

    assert leaves("", tree) == flatten(RunConfig())


def test_what_a_federation_agrees_on_and_what_a_site_owns_share_no_key() -> None:
    assert not set(RunConfig.model_fields) & set(SiteConfig.model_fields)


@pytest.mark.parametrize("name", [path.stem for path in (bundle_root() / "configs").glob("*.toml")])
def test_shipped_configurations_are_valid_and_found_by_name(name: str) -> None:
    assert load_simulation(find_config(Path(name))).run.name == name


def test_an_unknown_configuration_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="demo"):
        find_config(Path("nowhere.toml"))


def test_every_error_has_its_own_exit_code() -> None:
    kinds = CdtlError.__subclasses__()
    assert sorted(kind.exit_code for kind in kinds) == [3, 4, 5, 6, 7, 8]
    assert all(error_of_code(kind.exit_code) is kind for kind in kinds)
    assert error_of_code(1) is CdtlError


def test_the_readme_of_a_schema_is_the_schema() -> None:
    """docs/report.md names every field of report.json."""
    from cdtl_core.results import report

    text = (bundle_root() / "docs" / "report.md").read_text()
    parts = [
        report.Report,
        report.SiteReport,
        report.MethodResult,
        report.Estimate,
        report.ModelChoice,
        report.Bytes,
        report.Counts,
    ]
    missing = [name for part in parts for name in part.model_fields if f"`{name}`" not in text]  # type: ignore[attr-defined]
    assert missing == []
    assert json.dumps(report.SCHEMA_VERSION) in text


@pytest.mark.parametrize("flat", [{"blend.donors": "T}"}, {"seed": 1, "seed.x": 2}, {"task.labels": "[" * 5000}])
def test_flat_settings_that_cannot_be_read_are_a_sentence(flat: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="settings cannot be read at"):
        unflatten(flat)
