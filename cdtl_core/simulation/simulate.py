"""Runs a simulation: prepares the sites, runs each method through Flower, collects the results."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cdtl_core.config import Method, RunConfig, SimulationConfig
from cdtl_core.config.folders import MODEL_FILE, NOTE_FILE, RunFolder, federation_key
from cdtl_core.config.settings import flatten, save_toml, simulation_toml
from cdtl_core.errors import CdtlError, FederationError, error_of_code
from cdtl_core.federation.checkpoint import load_latest
from cdtl_core.federation.contract import label_hash
from cdtl_core.federation.journal import Journal, JournalFile, read_journal
from cdtl_core.federation.preflight import Candidate, check_network, check_run
from cdtl_core.federation.state import Member
from cdtl_core.federation.transfer import retention_of, transfer_of
from cdtl_core.inference.likeness import STATISTICS_FILE
from cdtl_core.metrics.summary import load_metrics
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import hash_once
from cdtl_core.results.card import CARD_FILE, CARD_TEXT, load_card, save_card
from cdtl_core.results.report import Report, save_report
from cdtl_core.simulation.gather import gather_report
from cdtl_core.simulation.run_folder import kept_settings, naming, refuse_used, with_absolute_paths
from cdtl_core.site.cohort import contract_of
from cdtl_core.site.home import open_site
from cdtl_core.site.spending import is_private
from cdtl_core.system.durable import locked, replace_file
from cdtl_core.system.foreign import get_logger, visible
from cdtl_core.system.progress import report

if TYPE_CHECKING:
    from flwr.serverapp import Grid

__all__ = ["Engine", "resume_simulation", "simulate"]

SITES_LOG = "sites.log"
Engine = Literal["in-process", "ray"]
_MOST = 300  # characters of a cause
_Player = Callable[[RunConfig, Path, Sequence[Path]], None]


def simulate(config: SimulationConfig, out: Path | str, *, engine: Engine = "in-process", address: str = "") -> Report:
    """Run every method of `config` over its sites and write the run directory `out`.

    All images are read and split before training. If that fails, nothing is left behind.

    Args:
        config: The run, its sites and its methods, for example of `load_config`.
        out: The run directory, new or empty. docs/report.md describes its contents.
        engine: ``"ray"`` runs each site in a separate process, by Flower's simulation engine.
        address: With ``"ray"``: a Ray cluster that runs the sites instead, ``host:port`` or ``auto`` (docs/cluster.md).

    Returns:
        What each site gained, as in ``out/report.json``.

    Raises:
        CheckpointError: `out` is not empty.
        FederationError: The cluster cannot be used, or is lost.
        CdtlError: A site's data, a setting or the training fails; the sentence says which.

    Examples:
        >>> from cdtl_core import load_config, simulate
        >>> report = simulate(load_config("tiny"), "runs/tiny")
        >>> [site.modality for site in report.sites]
        ['ultrasound', 'mammography']
    """
    out = Path(out)
    refuse_used(out, resume_simulation)
    config, prepared = with_absolute_paths(config), False
    with locked(out):
        if RunFolder(out).config.exists():
            refuse_used(out, resume_simulation)
        try:
            with _player(config, out, engine, address) as play:
                save_toml(RunFolder(out).config, simulation_toml(config))
                _prepare(config, out)
                prepared = True
                return _play(config, out, engine, play)
        except BaseException:
            if not prepared:
                shutil.rmtree(out, ignore_errors=True)
            raise


def resume_simulation(out: Path | str, *, engine: Engine = "in-process", address: str = "") -> Report:
    """Continue the run in `out` from its last complete round; a finished run is reported again.

    Args:
        out: The run directory of an earlier `simulate`.
        engine: As in `simulate`; either engine gives the same bits.
        address: As in `simulate`; a run may continue elsewhere than it began.

    Returns:
        The report of the whole run.

    Raises:
        CheckpointError: `out` holds no run.

    Examples:
        >>> from cdtl_core import resume_simulation
        >>> resume_simulation("runs/demo").rounds
        2
    """
    out = Path(out)
    config = kept_settings(out)
    with locked(out), _player(config, out, engine, address) as play:
        _prepare(config, out)
        return _play(config, out, engine, play)


def _prepare(config: SimulationConfig, out: Path) -> None:
    """Write each site's folder and settings, decode its images, and check that every method can start.

    Repeating it changes nothing, so a run that was killed here can be resumed.
    """
    load_metrics()
    run, candidates = config.run, []
    private = {own.site: is_private(own, run) for own in config.sites}
    initial_weights = build_initial_weights(run.model, run.seed, run.image.size)
    check_network(run, initial_weights)
    for own in config.sites:
        folder = RunFolder(out).site(own.site)
        privacy = own.privacy.model_copy(update={"ledger": "run"})  # each method counts its privacy separately
        alone = own.model_copy(update={"privacy": privacy})
        save_toml(folder.settings, alone.model_dump(mode="json", exclude_none=True))
        report(preparing=own.site)
        with naming(own.site):
            site = open_site(folder.home, config.of_method(config.methods[0]))
        patients = site.cohort.folds["train"].num_patients
        member = Member(site.name, site.modality, patients, label_hash(site.cohort.labels))
        contract = contract_of(folder.home, site.cohort, run.task)
        candidates.append(Candidate(member, contract, private[own.site]))
    for method in config.methods:
        check_run(candidates, _all_take_part(config, method), hash_once(initial_weights))


def _play(config: SimulationConfig, out: Path, engine: Engine, play: _Player) -> Report:
    folder = RunFolder(out)
    homes = [folder.site(own.site).home for own in config.sites]
    report(visits=sum(_rounds_left(config, method, out) for method in config.methods) * len(homes))
    for method in config.methods:
        if not JournalFile(folder.journal, method).finished():
            play(_all_take_part(config, method), out, homes)
    _publish_models(config, folder)
    result = gather_report(config, folder, engine)
    save_report(folder.report, result)
    return result


def _publish_models(config: SimulationConfig, folder: RunFolder) -> None:
    """Put the model of the main method into ``sites/<name>/``, with a card that knows what the blend did."""
    main = "cdtl" if "cdtl" in config.methods else config.methods[-1]
    journal = next(journal for journal in read_journal(folder.journal) if journal.method == main)
    for own in config.sites:
        site = folder.site(own.site)
        source = site.model(federation_key(config.run.name, main))
        if main == "cdtl":
            _add_realised_blend(source, journal)
        names = (MODEL_FILE, NOTE_FILE, CARD_FILE, CARD_TEXT)
        statistics = [STATISTICS_FILE] if (source / STATISTICS_FILE).exists() else []  # not in an earlier version's run
        for name in (*names, *statistics):
            replace_file(site.home / name, source / name)


def _add_realised_blend(model: Path, journal: Journal) -> None:
    """Say in a site's card what the matrices of all rounds did, which a site between hospitals does not know."""
    card = load_card(model)
    if card is None or not journal.rounds:
        return
    matrices, groups = [np.array(one.matrix) for one in journal.rounds], tuple(journal.rounds[-1].groups)
    kept = dict(zip(groups, retention_of(matrices), strict=True))[card.modality]
    shares = tuple(tuple(round(float(share), 6) for share in row) for row in transfer_of(matrices))
    told = {"groups": groups, "transfer": shares, "retention": round(kept, 6)}
    save_card(model, card.model_copy(update={"blend": card.blend.model_copy(update=told)}))


def _rounds_left(config: SimulationConfig, method: Method, out: Path) -> int:
    state, _ = load_latest(RunFolder(out).checkpoints(method))
    return config.run.federation.rounds - (state.round if state else 0)


def _all_take_part(config: SimulationConfig, method: Method) -> RunConfig:
    """Return settings that require every site in every round, without time limits that matter on one machine."""
    run, count = config.of_method(method), len(config.sites)
    timeout = run.federation.round_timeout_s * count
    limits = {"round_timeout_s": timeout, "join_timeout_s": timeout}
    federation = run.federation.model_copy(update={"sites": (), "min_sites": count, **limits})
    return run.model_copy(update={"federation": federation})


@contextmanager
def _player(config: SimulationConfig, out: Path, engine: Engine, address: str) -> Iterator[_Player]:
    """Return the function that runs one method: in this process, in Flower's engine or on a cluster.

    Args:
        config: The run and its sites.
        out: The run directory.
        engine: The engine.
        address: Of a Ray cluster.
    """
    if engine == "ray" and not address:
        from cdtl_core.simulation.ray import run_with_ray

        yield run_with_ray
    elif engine == "ray":
        from cdtl_core.simulation.cluster.grid import connected_grids

        with connected_grids(address, config.cluster, out) as open_grid:
            yield partial(_run_here, open_grid)
    else:
        from cdtl_core.simulation.inprocess import InProcessGrid
        from cdtl_core.site.app import app

        yield partial(_run_here, partial(InProcessGrid, app))


def _run_here(open_grid: "Callable[..., Grid]", run: RunConfig, out: Path, homes: Sequence[Path]) -> None:
    """Run one federation with the ServerApp in this process.

    Args:
        open_grid: Returns the grid of the sites' folders with these settings.
        run: The run's settings.
        out: The server's folder.
        homes: The sites' folders.
    """
    from cdtl_core.coordinator.app import app as server_app
    from cdtl_core.simulation.inprocess import run_on

    settings = flatten(run)
    with _site_log(out) as failures:
        try:
            run_on(open_grid(homes, settings), server_app, out, settings)
        except FederationError as error:
            if not failures:
                raise
            cause = failures[0].exc_info  # None from another machine
            raise _failure(failures[0], out) from (cause[1] if cause else error)


def _failure(record: logging.LogRecord, out: Path) -> CdtlError:
    """Return the error of the first site that failed: the reader of a simulation owns all sites, so it has the cause.

    Args:
        record: The site's line in its log.
        out: The run directory.
    """
    facts, text = record.__dict__, record.getMessage()
    if record.exc_text:  # a traceback: its first line at the margin is the exception
        last = record.exc_text.rpartition("Traceback (most recent call last):")[2].strip("\n").split("\n")
        cause = next(line for line in last if not line.startswith(" " * 5)).strip().rstrip(".")
        text = f"{visible(cause, _MOST)}. The traceback is in {out / SITES_LOG}."
    return error_of_code(facts["exit_code"])(f"site {facts['site']}: {text}")


@contextmanager
def _site_log(out: Path) -> Iterator[list[logging.LogRecord]]:
    """Keep the sites' error logs: in `SITES_LOG`, and for the error message."""
    failures: list[logging.LogRecord] = []
    logger, handler = get_logger("cdtl.site"), logging.FileHandler(out / SITES_LOG, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(site)s: %(message)s"))
    handler.addFilter(lambda record: record.levelno < logging.ERROR or not failures.append(record))  # type: ignore[func-returns-value]
    logger.addHandler(handler)
    try:
        yield failures
    finally:
        logger.removeHandler(handler)
        handler.close()
