"""Runs a comparison: prepares the sites, runs every cell on this machine or a cluster, combines the scores."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from cdtl_core.config import SimulationConfig
from cdtl_core.config.settings import load_simulation, save_toml, simulation_toml
from cdtl_core.errors import CheckpointError
from cdtl_core.results.comparison import Comparison, save_comparison
from cdtl_core.simulation.cell import (
    CELLS,
    SETTINGS_FILE,
    STUDY_FILE,
    Workplace,
    open_sites,
    play_cell,
    prepare_features,
    to_send,
)
from cdtl_core.simulation.crew import Crew, Processes
from cdtl_core.simulation.curves import save_curves
from cdtl_core.simulation.preparing import cells_left, is_prepared, prepare_study, read_left_out
from cdtl_core.simulation.run_folder import refuse_used, with_absolute_paths
from cdtl_core.simulation.study import Cell, Study, cells_of, load_study
from cdtl_core.simulation.tally import tally
from cdtl_core.system.durable import locked, replace_json
from cdtl_core.system.program import num_cores
from cdtl_core.system.progress import report

__all__ = ["compare", "compare_shard", "resume_comparison"]


def compare(
    config: SimulationConfig, study: Study, out: Path | str, *, jobs: int | None = None, address: str = ""
) -> Comparison:
    """Run every cell of `study` and write the study's folder `out`.

    All images are read and every cut of the receivers is tried before training. If that fails, nothing is left behind.

    Args:
        config: The run and its sites.
        study: Methods, receivers, folds and seeds, of `study_of`.
        out: The study's folder, new or empty. docs/compare.md describes its contents.
        jobs: Processes that play cells, each on one core; None: as many as there are cores. More than one is for
            scripts: each process imports the script again, with the methods that it registers.
        address: A Ray cluster that plays the cells instead, ``host:port`` or ``auto`` (docs/cluster.md); `jobs` then
            has no effect. Its nodes know methods of installed packages, not those that a script registers.

    Returns:
        Gains of each method over local training at each receiver, with intervals, as in ``out/compare.json``.

    Raises:
        CheckpointError: `out` is not empty.
        FederationError: The cluster cannot be used, or is lost.
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
    with locked(out), ExitStack() as stack:
        if (out / STUDY_FILE).exists():
            refuse_used(out, resume_comparison)
        with _removing(out):
            crew = stack.enter_context(_crew(config, out, jobs, address))
            _begin(config, study, out)
        _play(config, study, out, crew, cells_of(study, read_left_out(out)))
        return _combine(config, study, out)


def resume_comparison(out: Path | str, *, jobs: int | None = None, address: str = "") -> Comparison:
    """Continue the study in `out`, whose finished cells stay; a finished study is reported again.

    Args:
        out: The folder of an earlier `compare`.
        jobs: As in `compare`.
        address: As in `compare`; a study may continue elsewhere than it began.

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
        if not is_prepared(out) or cells_left(study, out):
            with _crew(config, out, jobs, address) as crew:
                prepare_study(config, study, out)
                _play(config, study, out, crew, cells_of(study, read_left_out(out)))
        return _combine(config, study, out)


def compare_shard(
    config: SimulationConfig, study: Study, out: Path | str, *, shard: tuple[int, int], jobs: int | None = None
) -> Comparison | None:
    """Play one of several parts of `study`, while other processes or machines play the others in the same folder.

    The first to come prepares the study, the last to end combines the scores. A part that was stopped continues when it
    is started again; `resume_comparison` plays what is missing of all parts.

    Args:
        config: The run and its sites, the same for all parts.
        study: The study, the same for all parts.
        out: The study's folder, on a disk that all parts see.
        shard: The number of this part, from 1, and the number of parts.
        jobs: As in `compare`.

    Returns:
        The result of the whole study, or None while other parts are not finished.

    Raises:
        CheckpointError: `out` holds something else, another process plays this part, or parts of another number run.
        CdtlError: A site's data, a setting or the training fails; the sentence says which.
    """
    out, (number, count) = Path(out), shard
    config = with_absolute_paths(config)
    with locked(out, wait=True):
        if not (out / STUDY_FILE).exists():
            refuse_used(out, resume_comparison)
            with _removing(out):
                _begin(config, study, out)
        elif (load_study(out / STUDY_FILE), load_simulation(out / SETTINGS_FILE)) != (study, config):
            raise CheckpointError(f"{out} holds another study: give each study a folder of its own.")
        elif not is_prepared(out):
            prepare_study(config, study, out)
    with locked(out, wait=True, shared=True), _part(out, number, count):
        everyone = list(cells_of(study, read_left_out(out)))
        own = everyone[len(everyone) * (number - 1) // count : len(everyone) * number // count]
        _play(config, study, out, Processes(jobs or num_cores()), own)
    if cells_left(study, out):
        return None
    with locked(out, wait=True):
        return _combine(config, study, out)


@contextmanager
def _removing(out: Path) -> Iterator[None]:
    """Remove the study's folder if the block fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


@contextmanager
def _part(out: Path, number: int, count: int) -> Iterator[None]:
    """Lock one part of a study, and see that no parts of another division are being played."""
    for other in (out / "shards").glob("*-of-*"):
        if not other.name.endswith(f"-of-{count}"):
            with locked(other):
                pass
    with locked(out / "shards" / f"{number}-of-{count}"):
        yield


@contextmanager
def _crew(config: SimulationConfig, out: Path, jobs: int | None, address: str) -> Iterator[Crew]:
    if not address:
        yield Processes(jobs or num_cores())
        return
    from cdtl_core.simulation.cluster.crew import joined

    shared = not config.cluster.send_images
    with joined(address, config.cluster, out, needs_folder=shared, threads=1) as crew:
        yield crew


def _begin(config: SimulationConfig, study: Study, out: Path) -> None:
    save_toml(out / SETTINGS_FILE, simulation_toml(config))
    replace_json(out / STUDY_FILE, study.model_dump(mode="json"))
    prepare_study(config, study, out)


def _play(config: SimulationConfig, study: Study, out: Path, crew: Crew, cells: Iterable[Cell]) -> None:
    """Play the cells that have no file, and write the file of each when it is done."""
    cells = list(cells)
    left, total = [cell for cell in cells if not (out / CELLS / cell.file).exists()], len(cells)
    report(cells=total, cells_done=total - len(left))
    place = _workplace(config, study, out, crew)
    if left and config.run.trains_only_heads and not place.own_folder:
        _compute_features(place, crew)
    with closing(crew.work_through(left, partial(play_cell, place))) as played:
        for done, (cell, found) in enumerate(played, start=total - len(left) + 1):
            replace_json(out / CELLS / cell.file, found)
            run = f", run {cell.run}" if study.runs > 1 else ""
            what = f"{cell.target}, seed {cell.seed}, fold {cell.fold}, {cell.patients} patients{run}"
            report(cells=total, cells_done=done, cell=what)


def _workplace(config: SimulationConfig, study: Study, out: Path, crew: Crew) -> Workplace:
    cluster = config.cluster
    if isinstance(crew, Processes) or not (cluster.send_images or cluster.feature_cache == "node"):
        return Workplace(config, study, out.resolve())
    cohorts = {site.name: to_send(site.cohort) for site in open_sites(config, out)} if cluster.send_images else {}
    return Workplace(config, study, out.resolve(), crew.own_folder, cohorts)


def _compute_features(place: Workplace, crew: Crew) -> None:
    """Compute features, one site per process, before all processes need all of them."""
    names = [own.site for own in place.config.sites]
    with closing(crew.work_through(names, partial(prepare_features, place))) as computed:
        for name, _ in computed:
            report(preparing=f"features of {name}")


def _combine(config: SimulationConfig, study: Study, out: Path) -> Comparison:
    """Write the result of a study all of whose cells have a file."""
    result = tally(config, study, read_left_out(out), out)
    save_comparison(out / "compare.json", result)
    save_curves(out, result)
    return result
