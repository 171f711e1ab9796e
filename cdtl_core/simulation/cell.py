"""One cell of a comparison: all methods on one receiver's patients, played in any process on any machine."""

import functools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cdtl_core.config import RunConfig, SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.data.cohort import Cohort
from cdtl_core.federation.evidence import on_features
from cdtl_core.federation.site import Site
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import Weights
from cdtl_core.results.comparison import Donors
from cdtl_core.simulation.arms import Arm, arm_of
from cdtl_core.simulation.folds import scarce_site
from cdtl_core.simulation.methods.kept import Kept
from cdtl_core.simulation.methods.method import Model, federation_of, score_any
from cdtl_core.simulation.run_folder import naming
from cdtl_core.simulation.study import Cell, Study
from cdtl_core.site.home import build_site, open_site

__all__ = ["CELLS", "SETTINGS_FILE", "STUDY_FILE", "Workplace", "cut_of", "open_sites", "party_of", "play_cell"]
__all__ += ["prepare_features", "scores_of", "to_send"]

SETTINGS_FILE = "settings.toml"
STUDY_FILE = "study.json"
CELLS = "cells"
CACHE = "cache"


@dataclass(frozen=True)
class Workplace:
    """What a process needs to play the cells of a study.

    Attributes:
        config: The run and its sites.
        study: The study.
        out: The study's folder, under the same path on every machine, unless `cohorts` are given.
        own_folder: Name of a folder for features and synthetic donors among a machine's temporary files; or empty.
        cohorts: Images of each site, if they are sent; else the sites' folders in `out` hold them.
    """

    config: SimulationConfig
    study: Study
    out: Path
    own_folder: str = ""
    cohorts: Mapping[str, Cohort] = field(default_factory=dict, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """Where features and synthetic donors are kept."""
        return Path(tempfile.gettempdir()) / self.own_folder if self.own_folder else self.out

    def open(self) -> list[Site]:
        """Open all sites with their images, decoded once, and a feature cache that all cells share."""
        if not self.cohorts:
            return [replace(site, cache=self.folder / CACHE) for site in open_sites(self.config, self.out)]
        run, cache = self.config.run, self.folder / CACHE
        return [build_site(own, run, self.cohorts[own.site], cache=cache) for own in self.config.sites]


@dataclass(frozen=True)
class _Open:
    """All sites, their initial weights, and their earlier answers in this process."""

    sites: Sequence[Site]
    initial_weights: Weights
    kept: Kept


def play_cell(place: Workplace, cell: Cell) -> dict[str, Any]:
    """Train and score one cell; returns the content of its file.

    Raises:
        CdtlError: The data, a setting or the training fails; the sentence says which.
    """
    began = time.perf_counter()
    run = place.config.run.model_copy(update={"seed": cell.training_seed})
    found: dict[str, Any] = {}
    for donors in place.study.donors:
        for name in place.study.methods:
            if (scores := _scores(place, run, cell, donors, arm_of(name))) is not None:
                probabilities = scores.pop("probabilities")
                found = {**scores, "scores": found.get("scores", {})}
                found["scores"].setdefault(donors, {})[name] = probabilities
    return {**found, "seconds": round(time.perf_counter() - began, 2)}


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


def to_send(cohort: Cohort) -> Cohort:
    """Return a cohort for other machines: its images in memory instead of a file, without names."""
    pixels = np.asarray(cohort.folds["train"].pixels)
    return replace(
        cohort, files=(), units=(), folds={split: replace(fold, pixels=pixels) for split, fold in cohort.folds.items()}
    )


def prepare_features(place: Workplace, name: str) -> None:
    """Compute and store the features of a site's images, if only heads are trained."""
    on_features(next(site for site in place.open() if site.name == name), _initial_weights(place.config.run))


def scores_of(site: Site, model: Model) -> dict[str, Any]:
    """Return each test unit by its first image's index at the site, with patient number, label and probabilities."""
    test, train = site.cohort.folds["test"], site.cohort.folds["train"]
    return {
        "training_patients": train.num_patients,
        "images": test.rows[test.starts].tolist(),
        "patients": test.patients.tolist(),
        "labels": test.labels.tolist(),
        "positive": site.positive,
        "probabilities": np.exp(score_any(site, model, test)).tolist(),
    }


def _scores(place: Workplace, run: RunConfig, cell: Cell, donors: Donors, arm: Arm) -> dict[str, Any] | None:
    """Return the scores of the receiver's test images; None for an arm that needs donors and has none."""
    opened = _opened(place, arm.control == "phantom", run)
    receiver = cut_of(opened.sites, place.study, cell)
    membership = party_of(opened.sites, receiver, donors)
    if arm.takes_donors and len(membership) == 1:
        return None
    federation = federation_of(membership, opened.initial_weights, run, receivers=[cell.target], kept=opened.kept)
    return scores_of(receiver, arm.play(federation, seed=cell.seed, folder=place.folder / "phantoms"))


@functools.lru_cache(maxsize=2)
def _opened(place: Workplace, with_images: bool, run: RunConfig) -> _Open:
    """Open all sites of a run; on features if only heads are trained."""
    initial_weights, sites = _initial_weights(run), place.open()
    if with_images or not place.config.run.trains_only_heads:
        return _Open(sites, initial_weights, Kept())
    rest = {name: value for name, value in initial_weights.items() if not name.startswith("backbone.")}
    return _Open([on_features(site, initial_weights) for site in sites], rest, Kept())


@functools.lru_cache(maxsize=1)
def _initial_weights(run: RunConfig) -> Weights:
    return build_initial_weights(run.model, run.seed, run.image.size)
