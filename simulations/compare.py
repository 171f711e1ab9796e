"""A comparison from configuration to result: prepare the sites, play every cell, put the scores together."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from cdtl_core.config import SimulationConfig
from cdtl_core.durable import locked, replace_json
from cdtl_core.errors import CheckpointError, ConfigError
from cdtl_core.federation.site import Site
from cdtl_core.learning.model import build_theta0
from cdtl_core.progress import report
from cdtl_core.reporting.comparison import Comparison, save_comparison
from cdtl_core.reporting.curves import save_curves
from cdtl_core.settings import SITE_FILE, load_simulation, save_toml, simulation_toml
from simulations.arms import arm_of, donors_to
from simulations.cell import CELLS, SETTINGS_FILE, STUDY_FILE, open_sites, play_cell, sites_of
from simulations.crew import work_through
from simulations.folds import whole_fold
from simulations.run_folder import refuse_used, with_absolute_paths
from simulations.study import Cell, Study, cells_of
from simulations.tally import tally

__all__ = ["check_patients", "compare", "resume_comparison"]

_COHORTS = "cohorts.json"


def compare(config: SimulationConfig, study: Study, out: Path, *, jobs: int) -> Comparison:
    """Play every cell of `study` and write the study's folder `out`.

    All images are read, and every cut of the targets is tried, before anything is trained; if that fails nothing is
    left behind.

    Raises:
        CheckpointError: `out` is not empty.
        CdtlError: A site's data, a setting or the training fails; the sentence says which.
    """
    refuse_used(out)
    config = with_absolute_paths(config)
    with locked(out):
        if (out / STUDY_FILE).exists():
            refuse_used(out)
        try:
            save_toml(out / SETTINGS_FILE, simulation_toml(config))
            replace_json(out / STUDY_FILE, study.model_dump(mode="json"))
            _prepare(config, study, out)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        return _play(config, study, out, jobs)


def resume_comparison(out: Path, *, jobs: int) -> Comparison:
    """Go on with the study in `out`, whose finished cells stay; a finished study is reported again.

    Raises:
        CheckpointError: `out` holds no study, or a site's patients have changed since it began.
    """
    if not (out / STUDY_FILE).exists():
        raise CheckpointError(f"{out} holds no study ({STUDY_FILE} is missing): give the folder of an earlier --out.")
    study = Study.model_validate_json((out / STUDY_FILE).read_text(encoding="utf-8"))
    config = load_simulation(out / SETTINGS_FILE)
    with locked(out):
        if _cells_left(study, out):
            _prepare(config, study, out)
        return _play(config, study, out, jobs)


def _prepare(config: SimulationConfig, study: Study, out: Path) -> None:
    """Decode every site's images, and check that each method and each cut can be played.

    Doing it again changes nothing, so a study that was killed in it can be resumed.
    """
    build_theta0(config.run.model, config.run.seed, config.run.image.size)
    for own in config.sites:
        save_toml(out / "sites" / own.site / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
        report(preparing=own.site)
    sites = open_sites(config, out)
    check_patients(sites, out)
    for name in study.methods:
        if arm_of(name).donors and not donors_to(sites, study.targets):
            raise ConfigError(f"'{name}' has no donor of another modality: name the receiving sites with --target.")
        sites_of(sites, study, Cell(name, study.seeds[0], 0, study.patients[0]), out)
    for cell in cells_of(study):
        if cell.method == study.methods[0]:
            sites_of(sites, study, cell, out)


def check_patients(sites: Sequence[Site], out: Path) -> None:
    """Cells name images by their places: those of a study must not change while it is under way.

    Raises:
        CheckpointError: A site's patients have changed since the study in `out` began.
    """
    wholes = {site.name: whole_fold(site.cohort) for site in sites}
    found = {
        name: hashlib.sha256(whole.labels.tobytes() + whole.patients.tobytes()).hexdigest()
        for name, whole in wholes.items()
    }
    path = out / _COHORTS
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else found
    for name in found:
        if before[name] != found[name]:
            raise CheckpointError(f"the patients of site {name} have changed since {out} began: start a new study.")
    if not path.exists():
        replace_json(path, found)


def _cells_left(study: Study, out: Path) -> list[Cell]:
    return [cell for cell in cells_of(study) if not (out / CELLS / cell.file).exists()]


def _play(config: SimulationConfig, study: Study, out: Path, jobs: int) -> Comparison:
    left = _cells_left(study, out)
    total = sum(1 for _ in cells_of(study))
    report(cells=total, cells_done=total - len(left))
    with closing(work_through(left, partial(play_cell, out), jobs=jobs)) as played:
        for done, cell in enumerate(played, start=total - len(left) + 1):
            what = f"{cell.method}, seed {cell.seed}, fold {cell.fold}, {cell.patients} patients, run {cell.run}"
            report(cells=total, cells_done=done, cell=what)
    result = tally(config, study, out)
    save_comparison(out / "compare.json", result)
    save_curves(out, result)
    return result
