"""The study of a comparison and its cells, which run independently."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cdtl_core.config import SimulationConfig
from cdtl_core.errors import CheckpointError, ConfigError
from cdtl_core.results.comparison import Donors, LeftOut, Size
from cdtl_core.simulation.arms import ALONE, arm_of
from cdtl_core.system.foreign import parse_json

__all__ = ["Cell", "Study", "cells_of", "load_study", "only_sites", "study_of"]

_SCHEMA = 2
_RUN_STRIDE = 1_000_003  # larger than any number of seeds, so that no two runs share a seed


class Study(BaseModel):
    """What is compared: arms, seeds, receivers, sets of donors, numbers of the receiver's training patients, folds.

    Attributes:
        seeds: One per draw of folds and training patients.
        targets: The receivers. In a cell one of them is reduced, all other sites keep their patients.
        runs: How often each fold is trained on the same patients; their scores are averaged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = _SCHEMA
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    patients: tuple[Size, ...]
    targets: tuple[str, ...]
    donors: tuple[Donors, ...]
    folds: int
    runs: int = 1


@dataclass(frozen=True)
class Cell:
    """One receiver's patients: all methods are run on them, with each set of donors.

    Attributes:
        target: The receiver.
        seed: Seed of the folds, of the order of patients, and of the first run's training.
        fold: Index of the tested fold.
        patients: Number of training patients.
        run: Index of the training on the same patients, from 0.
    """

    target: str
    seed: int
    fold: int
    patients: Size
    run: int = 0

    @property
    def file(self) -> str:
        """Name of its file."""
        run = f"-run{self.run}" if self.run else ""
        return f"{self.target}-seed{self.seed}-fold{self.fold}-{self.patients}{run}.json"

    @property
    def training_seed(self) -> int:
        """Seed of the training itself, different in every run."""
        return self.seed + _RUN_STRIDE * self.run

    @property
    def count(self) -> int | None:
        """Number of training patients; None: all."""
        return None if self.patients == "all" else self.patients


def study_of(
    config: SimulationConfig,
    *,
    methods: Sequence[str] = ("alone", "fedbn", "cdtl", "cdtl:shuffled"),
    seeds: int = 5,
    patients: Sequence[str] = ("all",),
    targets: Sequence[str] = (),
    donors: Sequence[str] = ("all",),
    folds: int = 5,
    runs: int = 1,
) -> Study:
    """The plan of a comparison over the sites of `config`.

    Args:
        config: The run and its sites.
        methods: Methods, and controls such as ``cdtl:shuffled``; `alone` is among them.
        seeds: Number of draws of folds and training patients.
        patients: Numbers of the receiver's training patients, or ``all``.
        targets: Receivers. Each is tested, and made scarce by itself; none: every site.
        donors: Sets of donors: ``other`` (sites of other modalities), ``all`` (every other site).
        folds: Folds of the receiver's patients.
        runs: Trainings of the same patients; their scores are averaged.

    Returns:
        The plan that `compare` plays.

    Raises:
        ConfigError: A method, control, site or set of donors is unknown or named twice, alone is missing, or a number
            is too small.

    Examples:
        >>> from cdtl_core import load_config, study_of
        >>> study_of(load_config("demo"), targets=["south"], patients=["10", "all"]).patients
        (10, 'all')
    """
    for what, names in (("methods", methods), ("patients", patients), ("targets", targets), ("donors", donors)):
        if isinstance(names, str):
            raise ConfigError(f"{what} is the text {names!r}: give a list, such as {names.split(',')}.")
    _check_methods(methods)
    if folds < 2 or seeds < 1 or runs < 1:
        raise ConfigError(f"folds is {folds}, seeds {seeds}, runs {runs}: give at least 2 folds, 1 seed and 1 run.")
    _check_sites("target", targets, config)
    if config.run.dp.enabled:
        raise ConfigError("dp.enabled is true, but a comparison has no differential privacy: set dp.enabled = false.")
    sizes = [_size(text) for text in patients]
    given = (("methods", methods), ("patients", sizes), ("target", targets), ("donors", donors))
    for what, values in given:
        if len(set(values)) < len(values):
            raise ConfigError(f"{what} has a repeated value ({', '.join(map(str, values))}): give each value once.")
    first = config.run.seed
    return Study(
        methods=tuple(methods),
        seeds=tuple(range(first, first + seeds)),
        patients=tuple(sorted(sizes, key=lambda size: (size == "all", size))),
        targets=tuple(site.site for site in config.sites if site.site in targets or not targets),
        donors=tuple(_donors(text) for text in donors),
        folds=folds,
        runs=runs,
    )


def load_study(path: Path) -> Study:
    """Read study.json.

    Raises:
        CheckpointError: An earlier version wrote it.
    """
    found = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("schema_version") != _SCHEMA:
        raise CheckpointError(
            f"{path.parent} holds a study of another version of cdtl, whose cells have another meaning: start a new "
            "study."
        )
    return Study.model_validate(found)


def only_sites(config: SimulationConfig, names: Sequence[str]) -> SimulationConfig:
    """Return the configuration with only these sites, in its own order; without names it is unchanged.

    Raises:
        ConfigError: A name is no site of the configuration.
    """
    _check_sites("site", names, config)
    chosen = [site for site in config.sites if site.site in names or not names]
    return config.model_copy(update={"sites": tuple(chosen)})


def cells_of(study: Study, left_out: Collection[LeftOut] = ()) -> Iterator[Cell]:
    """Return all cells that are not left out; whole draws first, so that a partial study is a fair sample.

    Cells with the same training seed follow each other, so a process reuses the donors' results.
    """
    absent = {(one.target, one.patients) for one in left_out if one.donors is None}
    for seed in study.seeds:
        for run in range(study.runs):
            for target in study.targets:
                for patients in study.patients:
                    if (target, patients) not in absent:
                        for fold in range(study.folds):
                            yield Cell(target, seed, fold, patients, run)


def _check_sites(what: str, names: Sequence[str], config: SimulationConfig) -> None:
    known = [site.site for site in config.sites]
    for name in names:
        if name not in known:
            raise ConfigError(f"the {what} '{name}' is not a site of the configuration: use {', '.join(known)}.")


def _check_methods(methods: Sequence[str]) -> None:
    for name in methods:
        arm_of(name)
    if ALONE not in methods:
        raise ConfigError(f"methods are {', '.join(methods)}: add alone, the reference of all other methods.")


def _size(text: str) -> Size:
    if text == "all":
        return "all"
    if not text.isascii() or not text.isdigit() or int(text) < 2:
        raise ConfigError(f"patients has '{text}': give whole numbers from 2, or all.")
    return int(text)


def _donors(text: str) -> Donors:
    if text not in ("other", "all"):
        raise ConfigError(f"donors has '{text}': use other (sites of other modalities), all, or both.")
    return "other" if text == "other" else "all"
