"""Runs in turn and their ratios: a machine drifts, and what ran at the same time drifted alike."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from cdtl_core.errors import ConfigError

__all__ = ["alternate", "median_ratio", "middle"]

_K = TypeVar("_K")
_T = TypeVar("_T")


def alternate(arms: Mapping[_K, Callable[[], _T]], runs: int, *, warm: bool = False) -> dict[_K, list[_T]]:
    """Play every arm once, then every arm once more, `runs` times.

    Args:
        arms: Name to what plays one run.
        runs: Of each arm.
        warm: Play all of them once before, unmeasured.
    """
    if warm:
        for play in arms.values():
            play()
    found: dict[_K, list[_T]] = {name: [] for name in arms}
    for _ in range(runs):
        for name, play in arms.items():
            found[name].append(play())
    return found


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over runs of one arm's value over the other's of the same turn.

    Raises:
        ConfigError: There are no runs, or not equally many of both.
    """
    if not above or len(above) != len(below):
        raise ConfigError(f"{len(above)} runs stand against {len(below)}: play both arms equally often, at least once.")
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def middle(values: Sequence[float]) -> float:
    """The median, as a plain number."""
    return float(statistics.median(values))
