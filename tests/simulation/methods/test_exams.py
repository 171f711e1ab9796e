"""Every arm of a comparison plays exams with several images: one score for each exam, in every method."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import save_toml
from cdtl_core.federation.evidence import on_features
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.simulation.arms import arm_of
from cdtl_core.simulation.cell import scores_of
from cdtl_core.simulation.folds import scarce_site, whole_fold
from cdtl_core.simulation.methods.kept import Kept
from cdtl_core.simulation.methods.method import Federation, federation_of
from cdtl_core.simulation.methods.pooled import pool_sites
from cdtl_core.site.home import open_site
from tests.stub import STUB

RUN: dict[str, Any] = {
    "image": {"size": 32},
    "task": {"unit": "exam"},
    "model": {"backbone": STUB, "weights": "random", "levels": [2, 3]},
    "train": {"freeze": 3, "views": 1, "steps": 2, "batch_size": 4, "exam_images": 2},
    "federation": {"rounds": 2},
}
SITES = (("alba", "ultrasound", (1, 4)), ("bari", "mammography", 3), ("como", "histology", None))
ARMS = ("alone", "alone_ridge", "fedavg", "fedbn", "fedprox", "ditto", "apfl", "fedamp", "fedcross", "donors",
        "ensemble", "cdtl", "cdtl:shuffled", "pooled", "own_twice")  # fmt: skip


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exams")
    for seed, (name, modality, images) in enumerate(SITES, start=1):
        data = {"phantom": {"patients": 16, "seed": seed, "images": images}}
        own = SiteConfig.model_validate({"site": name, "modality": modality, "data": data})
        save_toml(folder / name / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
    return {name: folder / name for name, *_ in SITES}


def federation(homes: dict[str, Path], cache: Path, pooling: str, *, heads: bool) -> Federation:
    """Alba receives; heads on stored features, or whole networks."""
    run = {**RUN, "model": {**RUN["model"], "pooling": pooling}}
    if not heads:
        run = {**run, "model": {**run["model"], "levels": []}, "train": {**run["train"], "freeze": 0, "views": 0}}
    config = RunConfig.model_validate(run)
    weights = build_initial_weights(config.model, 0, 32)
    sites = [replace(open_site(home, config), cache=cache) for home in homes.values()]
    sites = [on_features(site, weights) for site in sites] if heads else sites
    receiver = scarce_site(sites[0], seed=0, fold=0, folds=3, patients=6)
    return federation_of([receiver, *sites[1:]], {} if heads else weights, config, receivers=["alba"], kept=Kept())


@pytest.mark.parametrize(
    ("name", "heads"),
    [*((name, True) for name in ARMS), *((name, False) for name in ("apfl", "cdtl", "fedamp", "fedavg", "pooled"))],
)
def test_every_arm_scores_each_exam_once(homes: dict[str, Path], tmp_path: Path, name: str, heads: bool) -> None:
    played = federation(homes, homes["alba"].parent / "cache", "attention", heads=heads)
    site = played.sites["alba"]
    test = site.cohort.folds["test"]
    found = scores_of(site, arm_of(name).play(played, seed=0, folder=tmp_path / "phantoms"))
    assert len(found["labels"]) == len(found["probabilities"]) == len(found["images"]) == test.num_units
    assert test.num_units < test.num_images
    assert len(set(found["images"])) == test.num_units
    assert np.isfinite(found["probabilities"]).all()
    assert np.ptp(found["probabilities"]) > 0


def test_pooled_sites_keep_their_exams(homes: dict[str, Path], tmp_path: Path) -> None:
    sites = [open_site(home, RunConfig.model_validate(RUN)) for home in homes.values()]
    together = pool_sites(sites).cohort
    for split, fold in together.folds.items():
        parts = [site.cohort.folds[split] for site in sites]
        assert fold.lengths.tolist() == np.concatenate([part.lengths for part in parts]).tolist()
        wide = [part.pixels[part.rows].repeat(fold.pixels.shape[1] // part.pixels.shape[1], axis=1) for part in parts]
        assert (fold.pixels[fold.rows] == np.concatenate(wide)).all()


def test_all_exams_of_a_site_are_one_fold_in_the_order_of_their_files(homes: dict[str, Path]) -> None:
    cohort = open_site(homes["alba"], RunConfig.model_validate(RUN)).cohort
    whole = whole_fold(cohort)
    assert (np.diff(whole.rows[whole.starts]) > 0).all()
    assert sorted(whole.rows.tolist()) == list(range(len(cohort.files)))
    assert sorted(cohort.names(whole)) == sorted(name for fold in cohort.folds.values() for name in cohort.names(fold))
