"""Privacy accounting: the cost of DP-SGD steps, and the noise that a run needs, by Opacus's accountants.

Sources: Mironov, Talwar, Zhang 2019 (RDP of the sampled Gaussian mechanism); Gopi, Lee, Wutschitz 2021 (PRV).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cdtl_core.errors import PrivacyError
from cdtl_core.privacy.accountants import load_accountant

__all__ = ["Steps", "affordable_steps", "epsilon", "epsilon_prv", "merged", "plan_noise"]

_PRECISION = 1e-4
_MOST_NOISE = 1e6
_ROUNDING = 1e-9
_SLACK = 1e-6  # far above the rounding of a cost, so that an order is passed over only if it cannot be the best
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
    return _epsilon(rows, target_delta)


def epsilon_prv(history: Sequence[Steps], target_delta: float) -> float:
    """Return epsilon by privacy loss variables: tighter, also an upper bound (within 0.01).

    Above an epsilon of 100, which promises nothing and whose grid may not fit into memory, it returns `epsilon`.
    """
    import numpy as np

    bound = epsilon(history, target_delta)
    if bound == 0 or bound > _PRV_MOST:
        return bound
    accountant = load_accountant("prv", _Renyi).PRVAccountant()
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


class _Renyi:
    """Opacus's `RDPAccountant`, as its PRV accountant uses it; the same figures, from fewer orders."""

    def __init__(self) -> None:
        self.history: list[tuple[float, float, int]] = []

    def get_epsilon(self, delta: float) -> float:
        """Return epsilon of the history."""
        return _epsilon([Steps(*one) for one in self.history], delta)


def _epsilon(rows: Sequence[Steps], target_delta: float) -> float:
    """Return the smallest epsilon over all orders, of those that it can be at.

    A step's cost takes milliseconds at each of 151 orders, and never falls from one order to the next. So the cost at
    an order bounds epsilon at every higher one from below, and a dozen orders suffice. The rest stay infinite.
    """
    import numpy as np

    orders = np.asarray(_orders(), np.float64)
    surcharge = np.log((orders - 1) / orders) - (np.log(target_delta) + np.log(orders)) / (orders - 1)
    spent, known, least = np.full(len(orders), np.inf), np.zeros(len(orders), np.bool_), surcharge.copy()
    while not known[best := int(np.argmin(least))]:
        below = int(np.max(np.flatnonzero(known[:best]), initial=-1))
        at = (below + 1 + best) // 2  # halves the distance to the next known order below
        spent[at] = sum(row.steps * _renyi(row.noise_multiplier, row.sample_rate, at) for row in rows)
        known[at], least[at] = True, np.nan_to_num(spent[at] + surcharge[at], nan=np.inf, posinf=np.inf)
        higher = ~known & (np.arange(len(orders)) > at)
        bound = np.nan_to_num(spent[at], nan=0.0, posinf=np.inf) * (1 - _SLACK) - _SLACK
        least[higher] = np.maximum(least[higher], bound + surcharge[higher])
    with _quiet():
        found = load_accountant("rdp").privacy_analysis.get_privacy_spent(
            orders=_orders(), rdp=spent, delta=target_delta
        )
    return float(found[0])


@lru_cache(maxsize=1 << 16)
def _renyi(noise_multiplier: float, sample_rate: float, order: int) -> float:
    """Return the cost of one step at one of Opacus's orders; the costs of steps add up.

    Args:
        noise_multiplier: Sigma of the step.
        sample_rate: q of the step.
        order: The order's index.
    """
    compute = load_accountant("rdp").privacy_analysis.compute_rdp
    return float(
        compute(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=_orders()[order : order + 1])[0]
    )


def _orders() -> Any:
    return load_accountant("rdp").RDPAccountant.DEFAULT_ALPHAS


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Opacus's hint that other orders might be tighter, since the bound holds anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the .* alpha")
        yield


def _first(wanted: Steps, count: int) -> Steps:
    return Steps(wanted.noise_multiplier, wanted.sample_rate, count)


def _last_true(holds: Callable[[int], bool], most: int) -> int:
    """Return the largest count up to `most` for which `holds`, if it holds up to there and not beyond."""
    low, high = 0, 1
    while high <= most and holds(high):  # most answers are far below `most`, and small counts are faster to judge
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
