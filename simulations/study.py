"""What a comparison is made of: the study a person asked for, and its cells, each played by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cdtl_core.config import SimulationConfig
from cdtl_core.errors import ConfigError
from simulations.arms import ALONE, arm_of

__all__ = ["Cell", "Size", "Study", "cells_of", "study_of"]

Size = int | Literal["all"]


class Study(BaseModel):
    """What is compared: arms, seeds, numbers of training patients at the targets, folds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    patients: tuple[Size, ...]
    targets: tuple[str, ...]
    folds: int


@dataclass(frozen=True)
class Cell:
    """One play: a method with one seed, one fold tested, one number of training patients at the targets."""

    method: str
    seed: int
    fold: int
    patients: Size

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"seed{self.seed}-fold{self.fold}-{self.patients}-{self.method.replace(':', '-')}.json"

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
) -> Study:
    """The study that a command line asks for; without targets every site is one.

    Raises:
        ConfigError: A method, control or site is unknown or named twice, alone is missing, or a number is too small.
    """
    _check_methods(methods)
    if folds < 2 or seeds < 1:
        raise ConfigError(f"folds is {folds} and seeds {seeds}: give at least 2 folds and 1 seed.")
    names = [site.site for site in config.sites]
    for name in targets:
        if name not in names:
            raise ConfigError(f"the target '{name}' is no site of the configuration: use {', '.join(names)}.")
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
        targets=tuple(name for name in names if name in targets or not targets),
        folds=folds,
    )


def cells_of(study: Study) -> Iterator[Cell]:
    """All cells; whole seeds first, and all methods of a fold together, so that a part of a study is a fair one."""
    for seed in study.seeds:
        for fold in range(study.folds):
            for patients in study.patients:
                for method in study.methods:
                    yield Cell(method, seed, fold, patients)


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
