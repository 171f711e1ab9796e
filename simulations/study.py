"""What a comparison is made of: the study a person asked for, and its cells, each played by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cdtl_core.config import SimulationConfig
from cdtl_core.errors import ConfigError
from simulations.arms import ALONE, arm_of

__all__ = ["Cell", "Size", "Study", "cells_of", "only_sites", "study_of"]

Size = int | Literal["all"]
_RUN_STRIDE = 1_000_003  # more than anyone's number of seeds: no two runs share one


class Study(BaseModel):
    """What is compared: arms, seeds, numbers of training patients at the targets, folds.

    Attributes:
        runs: How often each fold is trained anew on the same patients; their scores are averaged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    patients: tuple[Size, ...]
    targets: tuple[str, ...]
    folds: int
    runs: int = 1


@dataclass(frozen=True)
class Cell:
    """One play: a method with one seed, one fold tested, one number of training patients at the targets.

    Attributes:
        seed: Of the folds, of who is among the first patients, and of the first run's training.
        run: Which training of the same patients, from 0.
    """

    method: str
    seed: int
    fold: int
    patients: Size
    run: int = 0

    @property
    def file(self) -> str:
        """The name of its file."""
        run = f"-run{self.run}" if self.run else ""
        return f"seed{self.seed}-fold{self.fold}-{self.patients}-{self.method.replace(':', '-')}{run}.json"

    @property
    def training_seed(self) -> int:
        """The seed of the training itself, another in every run."""
        return self.seed + _RUN_STRIDE * self.run

    @property
    def count(self) -> int | None:
        """The number of training patients; None: all."""
        return None if self.patients == "all" else self.patients


def study_of(
    config: SimulationConfig,
    *,
    methods: Sequence[str],
    seeds: int,
    patients: Sequence[str],
    targets: Sequence[str],
    folds: int,
    runs: int = 1,
) -> Study:
    """The study that a command line asks for; without targets every site is one.

    Raises:
        ConfigError: A method, control or site is unknown or named twice, alone is missing, or a number is too small.
    """
    _check_methods(methods)
    if folds < 2 or seeds < 1 or runs < 1:
        raise ConfigError(f"folds is {folds}, seeds {seeds}, runs {runs}: give at least 2 folds, 1 seed and 1 run.")
    _check_sites("target", targets, config)
    if config.run.dp.enabled:
        raise ConfigError("dp.enabled is true and a comparison plays without privacy: set dp.enabled = false.")
    sizes = [_size(text) for text in patients]
    for what, values in (("methods", methods), ("patients", sizes), ("target", targets)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{what} names one twice ({', '.join(map(str, values))}): name each once.")
    first = config.run.seed
    return Study(
        methods=tuple(methods),
        seeds=tuple(range(first, first + seeds)),
        patients=tuple(sorted(sizes, key=lambda size: (size == "all", size))),
        targets=tuple(site.site for site in config.sites if site.site in targets or not targets),
        folds=folds,
        runs=runs,
    )


def only_sites(config: SimulationConfig, names: Sequence[str]) -> SimulationConfig:
    """The configuration with these sites alone, in its own order; with no names as it is.

    Raises:
        ConfigError: A name is no site of the configuration.
    """
    _check_sites("site", names, config)
    chosen = [site for site in config.sites if site.site in names or not names]
    return config.model_copy(update={"sites": tuple(chosen)})


def cells_of(study: Study) -> Iterator[Cell]:
    """All cells; whole seeds first, and all methods of a fold together, so that a part of a study is a fair one."""
    for seed in study.seeds:
        for fold in range(study.folds):
            for patients in study.patients:
                for method in study.methods:
                    for run in range(study.runs):
                        yield Cell(method, seed, fold, patients, run)


def _check_sites(what: str, names: Sequence[str], config: SimulationConfig) -> None:
    known = [site.site for site in config.sites]
    for name in names:
        if name not in known:
            raise ConfigError(f"the {what} '{name}' is no site of the configuration: use {', '.join(known)}.")


def _check_methods(methods: Sequence[str]) -> None:
    for name in methods:
        arm_of(name)
    if ALONE not in methods:
        raise ConfigError(f"methods are {', '.join(methods)}: add alone, which every other one is compared with.")


def _size(text: str) -> Size:
    if text == "all":
        return "all"
    if not text.isascii() or not text.isdigit() or int(text) < 2:
        raise ConfigError(f"patients has '{text}': give whole numbers from 2, or all.")
    return int(text)
