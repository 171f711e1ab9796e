"""One cell of a comparison: its sites, its play, and the test scores that it leaves as a file."""

import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cdtl_core.config import RunConfig, SimulationConfig
from cdtl_core.durable import replace_json
from cdtl_core.federation.evidence import PooledModel, on_features, score_model
from cdtl_core.federation.site import Site
from cdtl_core.learning.inputs import trains_only_heads
from cdtl_core.learning.model import build_theta0
from cdtl_core.learning.weights import Weights
from cdtl_core.settings import load_simulation
from client.home import open_site
from simulations.arms import ALONE, arm_of
from simulations.folds import scarce_site
from simulations.methods.loop import play
from simulations.study import Cell, Study

__all__ = ["CELLS", "SETTINGS_FILE", "STUDY_FILE", "featured", "open_sites", "play_cell", "scores_of", "sites_of"]

SETTINGS_FILE = "settings.toml"
STUDY_FILE = "study.json"
CELLS = "cells"
CACHE = "cache"


def play_cell(out: Path, cell: Cell) -> None:
    """Play a cell of the study in `out` and write its scores, whole or not at all.

    Raises:
        CdtlError: The data, a setting or the training fails; the sentence says which.
    """
    began = time.perf_counter()
    config, study = _settings(out.resolve())
    run = config.run.model_copy(update={"seed": cell.training_seed})
    everyone, theta0 = _opened(out.resolve(), cell.method.endswith(":phantom"), run.model_dump_json())
    sites = sites_of(everyone, study, cell, out)
    if cell.method == ALONE:  # no other site changes anything
        sites = [site for site in sites if site.name in study.targets]
    models = play(arm_of(cell.method).method, sites, theta0, run, study.targets)
    scores = {site.name: scores_of(site, models[site.name]) for site in sites if site.name in study.targets}
    seconds = round(time.perf_counter() - began, 2)
    replace_json(out / CELLS / cell.file, {"targets": scores, "seconds": seconds})


def sites_of(sites: Sequence[Site], study: Study, cell: Cell, out: Path) -> list[Site]:
    """The cell's sites: targets with its fold and number of patients, others as they are or as a control has them.

    Raises:
        DataError: A target has too few patients.
    """
    cut = [
        scarce_site(site, seed=cell.seed, fold=cell.fold, folds=study.folds, patients=cell.count)
        if site.name in study.targets
        else site
        for site in sites
    ]
    return arm_of(cell.method).sites(cut, study.targets, seed=cell.seed, folder=out / "phantoms")


def open_sites(config: SimulationConfig, out: Path) -> list[Site]:
    """All sites with their images, decoded once; what frozen stages say of an image is kept for all cells together."""
    return [replace(open_site(out / "sites" / own.site, config.run), cache=out / CACHE) for own in config.sites]


@functools.lru_cache(maxsize=2)
def _opened(out: Path, with_images: bool, run: str) -> tuple[list[Site], Weights]:
    """All sites and the weights that they start from; on features where heads alone are trained."""
    config, _ = _settings(out)
    if with_images or not trains_only_heads(config.run):
        return open_sites(config, out), _theta0(run)
    return featured(config, out, run)


def featured(config: SimulationConfig, out: Path, run: str) -> tuple[list[Site], Weights]:
    """All sites on features, and what is left of the initial weights without the backbone.

    Args:
        config: The sites.
        out: Folder of the study, with its sites and its cache.
        run: Settings of the run, JSON: they set the initial weights.
    """
    theta0 = _theta0(run)
    rest = {name: value for name, value in theta0.items() if not name.startswith("backbone.")}
    return [on_features(site, theta0) for site in open_sites(config, out)], rest


def scores_of(site: Site, model: Weights | PooledModel) -> dict[str, Any]:
    """Each test image by its place among the site's, its patient's number, its label, its probabilities."""
    test, train = site.cohort.folds["test"], site.cohort.folds["train"]
    return {
        "training_patients": train.num_patients,
        "images": test.rows.tolist(),
        "patients": test.patients.tolist(),
        "labels": test.labels.tolist(),
        "positive": site.positive,
        "probabilities": np.exp(score_model(site, model, test)).tolist(),
    }


@functools.lru_cache(maxsize=1)
def _settings(out: Path) -> tuple[SimulationConfig, Study]:
    study = Study.model_validate_json((out / STUDY_FILE).read_text(encoding="utf-8"))
    return load_simulation(out / SETTINGS_FILE), study


@functools.lru_cache(maxsize=1)
def _theta0(run: str) -> Weights:
    config = RunConfig.model_validate_json(run)
    return build_theta0(config.model, config.seed, config.image.size)
