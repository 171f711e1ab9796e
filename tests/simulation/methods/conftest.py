"""One tiny federation of synthetic images for all tests of methods; tests only read it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import save_toml
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.simulation.methods.kept import Kept
from cdtl_core.simulation.methods.method import Federation, federation_of
from cdtl_core.site.home import open_site
from tests.stub import STUB

RUN: dict[str, Any] = {
    "name": "tiny",
    "image": {"size": 32},
    "model": {"backbone": STUB, "weights": "random"},
    "train": {"steps": 2, "batch_size": 4, "lr": 0.005},
    "federation": {"rounds": 3},
    "blend": {"settle": 1},
}
SITES = [
    ("alba", "ultrasound", 16),
    ("bari", "ultrasound", 12),
    ("como", "histology", 12),
    ("diso", "mammography", 12),
]

Build = Callable[..., Federation]


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the sites."""
    folder = tmp_path_factory.mktemp("sites")
    for seed, (name, modality, patients) in enumerate(SITES, start=1):
        data = {"phantom": {"patients": patients, "seed": seed}}
        own = SiteConfig.model_validate({"site": name, "modality": modality, "data": data})
        save_toml(folder / name / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
    return {name: folder / name for name, _, _ in SITES}


@pytest.fixture(scope="session")
def build(homes: dict[str, Path]) -> Build:
    """A federation of some of the sites; keyword arguments replace tables of the run."""

    made: dict[tuple[tuple[str, ...], str], Federation] = {}

    def make(*names: str, **run: Any) -> Federation:
        merged = {
            key: {**value, **run.pop(key, {})} if isinstance(value, dict) else value for key, value in RUN.items()
        }
        config = RunConfig.model_validate({**merged, **run})
        key = names, config.model_dump_json()
        if key not in made:
            initial_weights = build_initial_weights(config.model, config.seed, config.image.size)
            sites = [open_site(homes[name], config) for name in names or homes]
            made[key] = federation_of(sites, initial_weights, config)
        return replace(made[key], kept=Kept())  # nothing is known of what other tests have trained

    return make
