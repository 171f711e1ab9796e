"""Privacy accounting: the cost of DP-SGD steps, and the noise that a run needs, by Opacus's accountants.

Sources: Mironov, Talwar, Zhang 2019 (RDP of the sampled Gaussian mechanism); Gopi, Lee, Wutschitz 2021 (PRV).
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtl_core.errors import PrivacyError
from cdtl_core.system.standins import late, stand_in, standing_in

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Steps", "affordable_steps", "epsilon", "epsilon_prv", "merged", "plan_noise"]

_PRECISION = 1e-4
_MOST_NOISE = 1e6
_ROUNDING = 1e-9
_PRV_MOST = 100.0


@dataclass(frozen=True)
class Steps:
    """Equal steps of DP-SGD.

    Attributes:
        noise_multiplier: Standard deviation of the noise on a summed gradient, divided by the clipping norm; sigma.
        sample_rate: Probability of each patient to be in a step's batch; q.
        steps: Number of steps.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def epsilon(history: Sequence[Steps], target_delta: float) -> float:
    """Return epsilon of a history at `target_delta`, by Renyi DP: an upper bound, the one that budgets use."""
    rows = merged(history)
    if not rows:
        return 0.0
    spent = sum(row.steps * _renyi(row.noise_multiplier, row.sample_rate) for row in rows)
    with _quiet():
        found = _opacus("rdp").privacy_analysis.get_privacy_spent(orders=_orders(), rdp=spent, delta=target_delta)
    return float(found[0])


def epsilon_prv(history: Sequence[Steps], target_delta: float) -> float:
    """Return epsilon by privacy loss variables: tighter, also an upper bound (within 0.01).

    Above an epsilon of 100, which promises nothing and whose grid may not fit into memory, it returns `epsilon`.
    """
    import numpy as np

    bound = epsilon(history, target_delta)
    if bound == 0 or bound > _PRV_MOST:
        return bound
    accountant = _opacus("prv").PRVAccountant()
    accountant.history = [(row.noise_multiplier, row.sample_rate, row.steps) for row in merged(history)]
    with _quiet(), np.errstate(divide="ignore"):  # the whole cohort in each batch: log(1 - q) is correctly -inf
        return float(accountant.get_epsilon(delta=target_delta))


def plan_noise(
    history: Sequence[Steps], *, target_epsilon: float, target_delta: float, sample_rate: float, steps: int
) -> float:
    """Return the lowest noise multiplier with which `steps` more steps keep the whole history within the target.

    Args:
        history: Steps already taken.
        target_epsilon: Largest epsilon of history and new steps together.
        target_delta: Delta of that epsilon.
        sample_rate: Probability of each patient to be in a step, in (0, 1].
        steps: Number of new steps.

    Raises:
        PrivacyError: Nothing, or next to nothing, of the target is left.
    """

    def fits(noise: float) -> bool:
        return epsilon([*history, Steps(noise, sample_rate, max(1, steps))], target_delta) <= target_epsilon

    high = 1.0
    while not fits(high):
        high *= 2
        if high > _MOST_NOISE:
            raise PrivacyError(
                f"epsilon {target_epsilon:g} at delta {target_delta:g} leaves no room for {steps} steps"
                f"{' in addition to what this site has spent' if history else ''}: raise the target."
            )
    low = 0.0
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def affordable_steps(history: Sequence[Steps], wanted: Steps, *, target_epsilon: float, target_delta: float) -> int:
    """Return how many of the wanted steps the target allows after this history.

    Args:
        history: Steps already taken.
        wanted: The steps to take.
        target_epsilon: Largest epsilon of both together.
        target_delta: Delta of that epsilon.
    """
    limit = target_epsilon * (1 + _ROUNDING)

    def fits(count: int) -> bool:
        return count == 0 or epsilon([*history, _first(wanted, count)], target_delta) <= limit

    return _last_true(fits, wanted.steps)


def merged(history: Sequence[Steps]) -> tuple[Steps, ...]:
    """Join equal steps, independent of their order, which does not change their cost."""
    counts: dict[tuple[float, float], int] = {}
    for one in history:
        kind = (one.noise_multiplier, one.sample_rate)
        counts[kind] = counts.get(kind, 0) + one.steps
    return tuple(Steps(noise, rate, steps) for (noise, rate), steps in counts.items() if steps)


@lru_cache(maxsize=4096)
def _renyi(noise_multiplier: float, sample_rate: float) -> "npt.NDArray[np.float64]":
    """Return the cost of one step at each of Opacus's orders; the costs of steps add up."""
    import numpy as np

    compute = _opacus("rdp").privacy_analysis.compute_rdp
    return np.asarray(compute(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=_orders()), np.float64)


def _orders() -> Any:
    return _opacus("rdp").RDPAccountant.DEFAULT_ALPHAS


@cache
def _opacus(name: str) -> Any:
    """Return Opacus's module of an accountant.

    The accountants need numpy and scipy only. The packages around them load torch, which a process that only reads a
    ledger does not need: unless Opacus is loaded already, bare packages stand in for them.
    """
    if "opacus" in sys.modules:
        return importlib.import_module(f"opacus.accountants.{name}")
    root = _place()
    packages = (
        stand_in("opacus", __path__=[str(root)]),
        stand_in("opacus.optimizers", DPOptimizer=object),  # an annotation
        stand_in("opacus.accountants", __path__=[str(root / "accountants")]),
        stand_in("scipy.signal", convolve=late("scipy.signal", "convolve")),  # for steps of several kinds
    )
    try:
        with standing_in(*packages):
            found = importlib.import_module(f"opacus.accountants.{name}")
    except (ImportError, AttributeError):  # another version, which needs more of them
        found = None
    for own in [key for key in sys.modules if key.startswith("opacus.")]:
        del sys.modules[own]  # Opacus itself, when it is imported, loads them as its own
    return found or importlib.import_module(f"opacus.accountants.{name}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Opacus's hint that other orders might be tighter, since the bound holds anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the .* alpha")
        yield


def _place() -> Path:
    spec = find_spec("opacus")
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 - installed with cdtl
    return Path(spec.origin).parent


def _first(wanted: Steps, count: int) -> Steps:
    return Steps(wanted.noise_multiplier, wanted.sample_rate, count)


def _last_true(holds: Callable[[int], bool], most: int) -> int:
    """Return the largest count up to `most` for which `holds`, if it holds up to there and not beyond."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
