"""Runs a comparison: prepares the sites, runs every cell, combines the scores."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from cdtl_core.config import SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import load_simulation, save_toml, simulation_toml
from cdtl_core.errors import CheckpointError, ConfigError, DataError
from cdtl_core.federation.site import Site
from cdtl_core.metrics.summary import load_metrics
from cdtl_core.models.model import build_initial_weights
from cdtl_core.results.comparison import Comparison, LeftOut, save_comparison
from cdtl_core.simulation.arms import arm_of
from cdtl_core.simulation.cell import (
    CELLS,
    SETTINGS_FILE,
    STUDY_FILE,
    cut_of,
    open_sites,
    party_of,
    play_cell,
    prepare_features,
)
from cdtl_core.simulation.crew import work_through
from cdtl_core.simulation.curves import save_curves
from cdtl_core.simulation.folds import whole_fold
from cdtl_core.simulation.run_folder import refuse_used, with_absolute_paths
from cdtl_core.simulation.study import Cell, Study, cells_of, load_study
from cdtl_core.simulation.tally import tally
from cdtl_core.system.durable import locked, replace_json
from cdtl_core.system.progress import report
from cdtl_core.system.threads import num_cores
from cdtl_core.training.inputs import trains_only_heads

__all__ = ["check_patients", "compare", "resume_comparison"]

_COHORTS = "cohorts.json"
_LEFT_OUT = "left_out.json"


def compare(config: SimulationConfig, study: Study, out: Path | str, *, jobs: int | None = None) -> Comparison:
    """Run every cell of `study` and write the study's folder `out`.

    All images are read and every cut of the receivers is tried before training. If that fails, nothing is left behind.

    Args:
        config: The run and its sites.
        study: Methods, receivers, folds and seeds, of `study_of`.
        out: The study's folder, new or empty. docs/compare.md describes its contents.
        jobs: Processes that play cells, each on one core; None: as many as there are cores. More than one is for
            scripts: each process imports the script again, with the methods that it registers.

    Returns:
        Gains of each method over local training at each receiver, with intervals, as in ``out/compare.json``.

    Raises:
        CheckpointError: `out` is not empty.
        CdtlError: A site's data, a setting or the training fails; the sentence says which.

    Examples:
        >>> from cdtl_core import compare, load_config, study_of
        >>> config = load_config("tiny")
        >>> study = study_of(config, methods=("alone", "fedavg"), targets=["south"], seeds=1, folds=2)
        >>> result = compare(config, study, "runs/study", jobs=1)
        >>> [(point.target, list(point.results)) for point in result.points]
        [('south', ['alone', 'fedavg'])]
    """
    out = Path(out)
    refuse_used(out, resume_comparison)
    config = with_absolute_paths(config)
    with locked(out):
        if (out / STUDY_FILE).exists():
            refuse_used(out, resume_comparison)
        try:
            save_toml(out / SETTINGS_FILE, simulation_toml(config))
            replace_json(out / STUDY_FILE, study.model_dump(mode="json"))
            _prepare(config, study, out)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        return _play(config, study, out, jobs or num_cores())


def resume_comparison(out: Path | str, *, jobs: int | None = None) -> Comparison:
    """Continue the study in `out`, whose finished cells stay; a finished study is reported again.

    Args:
        out: The folder of an earlier `compare`.
        jobs: As in `compare`.

    Returns:
        The result of the whole study.

    Raises:
        CheckpointError: `out` holds no study, one of another version, or a site's patients have changed since it began.

    Examples:
        >>> from cdtl_core import compare, load_config, resume_comparison, study_of
        >>> config = load_config("tiny")
        >>> study = study_of(config, methods=["alone"], targets=["south"], seeds=1, folds=2)
        >>> compare(config, study, "runs/stopped", jobs=1) == resume_comparison("runs/stopped", jobs=1)
        True
    """
    out = Path(out)
    if not (out / STUDY_FILE).exists():
        raise CheckpointError(f"{out} holds no study ({STUDY_FILE} is missing): give the folder of an earlier --out.")
    study = load_study(out / STUDY_FILE)
    config = load_simulation(out / SETTINGS_FILE)
    with locked(out):
        if not (out / _LEFT_OUT).exists() or _cells_left(study, out):
            _prepare(config, study, out)
        return _play(config, study, out, jobs or num_cores())


def _prepare(config: SimulationConfig, study: Study, out: Path) -> None:
    """Decode every site's images, and check which cut of which receiver is possible.

    Repeating it changes nothing, so a study that was killed here can be resumed.
    """
    load_metrics()
    build_initial_weights(config.run.model, config.run.seed, config.run.image.size)
    for own in config.sites:
        save_toml(RunFolder(out).site(own.site).settings, own.model_dump(mode="json", exclude_none=True))
        report(preparing=own.site)
    sites = open_sites(config, out)
    check_patients(sites, out)
    left_out = list(_left_out(sites, study))
    _refuse_nothing(study, left_out)
    replace_json(out / _LEFT_OUT, [one.model_dump(mode="json") for one in left_out])


def _left_out(sites: Sequence[Site], study: Study) -> Iterator[LeftOut]:
    """Return receivers without enough patients for a size in some draw and fold, or without donors in a set."""
    takes_donors = any(arm_of(name).takes_donors for name in study.methods)
    for target in study.targets:
        receiver = next(site for site in sites if site.name == target)
        for size in study.patients:
            cells = [cell for cell in cells_of(study) if (cell.target, cell.patients) == (target, size)]
            if (why := _why_not(sites, study, cells)) is not None:
                yield LeftOut(target=target, patients=size, donors=None, why=why)
                continue
            for donors in study.donors:
                if takes_donors and len(party_of(sites, receiver, donors)) == 1:
                    why = f"site {target} has no other site" + " of another modality" * (donors == "other")
                    yield LeftOut(target=target, patients=size, donors=donors, why=f"{why}: name more with --sites.")


def _refuse_nothing(study: Study, left_out: Sequence[LeftOut]) -> None:
    """Raise an error if nothing is left to compare."""
    parts = sum(1 if one.donors else len(study.donors) for one in left_out)
    if parts == len(study.targets) * len(study.patients) * len(study.donors):
        raise ConfigError(left_out[0].why) if left_out[0].donors else DataError(left_out[0].why)


def _why_not(sites: Sequence[Site], study: Study, cells: Sequence[Cell]) -> str | None:
    try:
        for cell in cells:
            cut_of(sites, study, cell)
    except DataError as error:
        return str(error)
    return None


def check_patients(sites: Sequence[Site], out: Path) -> None:
    """Check that a site's patients have not changed, since cells name images by their index.

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
    return [cell for cell in cells_of(study, _read_left_out(out)) if not (out / CELLS / cell.file).exists()]


def _read_left_out(out: Path) -> list[LeftOut]:
    return [LeftOut.model_validate(one) for one in json.loads((out / _LEFT_OUT).read_text(encoding="utf-8"))]


def _play(config: SimulationConfig, study: Study, out: Path, jobs: int) -> Comparison:
    left_out = _read_left_out(out)
    left, total = _cells_left(study, out), sum(1 for _ in cells_of(study, left_out))
    report(cells=total, cells_done=total - len(left))
    if left and trains_only_heads(config.run):
        _compute_features(config, out, jobs)
    with closing(work_through(left, partial(play_cell, out), jobs=jobs)) as played:
        for done, cell in enumerate(played, start=total - len(left) + 1):
            run = f", run {cell.run}" if study.runs > 1 else ""
            what = f"{cell.target}, seed {cell.seed}, fold {cell.fold}, {cell.patients} patients{run}"
            report(cells=total, cells_done=done, cell=what)
    result = tally(config, study, left_out, out)
    save_comparison(out / "compare.json", result)
    save_curves(out, result)
    return result


def _compute_features(config: SimulationConfig, out: Path, jobs: int) -> None:
    """Compute features, one site per process, before all processes need all of them."""
    names = [own.site for own in config.sites]
    with closing(work_through(names, partial(prepare_features, out), jobs=jobs)) as computed:
        for name in computed:
            report(preparing=f"features of {name}")
