"""One cell of a comparison: all methods on one receiver's patients, with the test scores as a file."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cdtl_core.config import RunConfig, SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import load_simulation
from cdtl_core.federation.evidence import on_features
from cdtl_core.federation.site import Site
from cdtl_core.models.model import build_initial_weights
from cdtl_core.models.weights import Weights
from cdtl_core.results.comparison import Donors
from cdtl_core.simulation.arms import Arm, arm_of
from cdtl_core.simulation.folds import scarce_site
from cdtl_core.simulation.methods.kept import Kept
from cdtl_core.simulation.methods.method import Model, federation_of, score_any
from cdtl_core.simulation.run_folder import naming
from cdtl_core.simulation.study import Cell, Study, load_study
from cdtl_core.site.home import open_site
from cdtl_core.system.durable import replace_json
from cdtl_core.training.inputs import trains_only_heads

__all__ = ["CELLS", "SETTINGS_FILE", "STUDY_FILE", "cut_of", "open_sites", "party_of", "play_cell", "prepare_features"]
__all__ += ["scores_of"]

SETTINGS_FILE = "settings.toml"
STUDY_FILE = "study.json"
CELLS = "cells"
CACHE = "cache"


@dataclass(frozen=True)
class _Open:
    """All sites, their initial weights, and their earlier answers in this process."""

    sites: Sequence[Site]
    initial_weights: Weights
    kept: Kept


def play_cell(out: Path, cell: Cell) -> None:
    """Train and score one cell of the study in `out` and write its scores atomically.

    Raises:
        CdtlError: The data, a setting or the training fails; the sentence says which.
    """
    began = time.perf_counter()
    config, study = _settings(out.resolve())
    run = config.run.model_copy(update={"seed": cell.training_seed})
    found: dict[str, Any] = {}
    for donors in study.donors:
        for name in study.methods:
            if (scores := _scores(out.resolve(), run, study, cell, donors, arm_of(name))) is not None:
                probabilities = scores.pop("probabilities")
                found = {**scores, "scores": found.get("scores", {})}
                found["scores"].setdefault(donors, {})[name] = probabilities
    replace_json(out / CELLS / cell.file, {**found, "seconds": round(time.perf_counter() - began, 2)})


def cut_of(sites: Sequence[Site], study: Study, cell: Cell) -> Site:
    """Return the receiver with the cell's fold as its test patients and the cell's number of training patients.

    Args:
        sites: All sites.
        study: The study.
        cell: The cell.

    Raises:
        DataError: It has too few patients.
    """
    site = next(site for site in sites if site.name == cell.target)
    return scarce_site(site, seed=cell.seed, fold=cell.fold, folds=study.folds, patients=cell.count)


def party_of(sites: Sequence[Site], receiver: Site, donors: Donors) -> list[Site]:
    """Return the receiver and its unchanged donors.

    Args:
        sites: All sites.
        receiver: Name of the receiver.
        donors: The set of donors.
    """
    others = [site for site in sites if site.name != receiver.name]
    return [receiver, *(site for site in others if donors == "all" or site.modality != receiver.modality)]


def open_sites(config: SimulationConfig, out: Path) -> list[Site]:
    """Open all sites with their images, decoded once, and a feature cache that all cells share."""
    sites = []
    for own in config.sites:
        with naming(own.site):
            sites.append(replace(open_site(RunFolder(out).site(own.site).home, config.run), cache=out / CACHE))
    return sites


def prepare_features(out: Path, name: str) -> None:
    """Compute and store the features of a site's images, if only heads are trained."""
    config, _ = _settings(out.resolve())
    initial_weights = _initial_weights(config.run)
    on_features(next(site for site in open_sites(config, out) if site.name == name), initial_weights)


def scores_of(site: Site, model: Model) -> dict[str, Any]:
    """Return each test image by its index at the site, with patient number, label and probabilities."""
    test, train = site.cohort.folds["test"], site.cohort.folds["train"]
    return {
        "training_patients": train.num_patients,
        "images": test.rows.tolist(),
        "patients": test.patients.tolist(),
        "labels": test.labels.tolist(),
        "positive": site.positive,
        "probabilities": np.exp(score_any(site, model, test)).tolist(),
    }


def _scores(out: Path, run: RunConfig, study: Study, cell: Cell, donors: Donors, arm: Arm) -> dict[str, Any] | None:
    """Return the scores of the receiver's test images; None for an arm that needs donors and has none."""
    opened = _opened(out, arm.control == "phantom", run)
    receiver = cut_of(opened.sites, study, cell)
    membership = party_of(opened.sites, receiver, donors)
    if arm.takes_donors and len(membership) == 1:
        return None
    federation = federation_of(membership, opened.initial_weights, run, receivers=[cell.target], kept=opened.kept)
    return scores_of(receiver, arm.play(federation, seed=cell.seed, folder=out / "phantoms"))


@functools.lru_cache(maxsize=2)
def _opened(out: Path, with_images: bool, run: RunConfig) -> _Open:
    """Open all sites of a run; on features if only heads are trained."""
    config, _ = _settings(out)
    initial_weights, sites = _initial_weights(run), open_sites(config, out)
    if with_images or not trains_only_heads(config.run):
        return _Open(sites, initial_weights, Kept())
    rest = {name: value for name, value in initial_weights.items() if not name.startswith("backbone.")}
    return _Open([on_features(site, initial_weights) for site in sites], rest, Kept())


@functools.lru_cache(maxsize=1)
def _settings(out: Path) -> tuple[SimulationConfig, Study]:
    return load_simulation(out / SETTINGS_FILE), load_study(out / STUDY_FILE)


@functools.lru_cache(maxsize=1)
def _initial_weights(run: RunConfig) -> Weights:
    return build_initial_weights(run.model, run.seed, run.image.size)
