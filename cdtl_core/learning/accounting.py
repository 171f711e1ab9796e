"""What steps of DP-SGD cost, and how much noise a run needs: Opacus's accountants over a whole history.

Sources: Mironov, Talwar, Zhang 2019 (RDP of the sampled Gaussian mechanism); Gopi, Lee, Wutschitz 2021 (PRV).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdtl_core.errors import PrivacyError

__all__ = ["Steps", "affordable_steps", "epsilon", "epsilon_prv", "merged", "plan_noise"]

_PRECISION = 1e-4
_MOST_NOISE = 1e6
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Steps:
    """Equal steps of DP-SGD.

    Attributes:
        noise_multiplier: Standard deviation of the noise on a summed gradient, over the clipping norm; sigma.
        sample_rate: Chance of each patient to be in a step's batch; q.
        steps: How many.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def epsilon(history: Sequence[Steps], target_delta: float) -> float:
    """Epsilon of a history at `target_delta`, by Renyi DP: an upper bound, the one that budgets are held against."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = _rows(history)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the .* alpha")  # the bound holds all the same
        return float(accountant.get_epsilon(delta=target_delta))


def epsilon_prv(history: Sequence[Steps], target_delta: float) -> float:
    """The same by privacy loss variables: tighter, also an upper bound (within 0.01)."""
    from opacus.accountants import PRVAccountant

    rows = _rows(history)
    if not rows:
        return 0.0
    if any(noise == 0 for noise, _, _ in rows):
        return math.inf
    accountant = PRVAccountant()
    accountant.history = rows
    return float(accountant.get_epsilon(delta=target_delta))


def plan_noise(
    history: Sequence[Steps], *, target_epsilon: float, target_delta: float, sample_rate: float, steps: int
) -> float:
    """The least noise multiplier with which `steps` more steps keep the whole history within the target.

    Raises:
        PrivacyError: Nothing, or next to nothing, of the target is left.
    """

    def fits(noise: float) -> bool:
        return epsilon([*history, Steps(noise, sample_rate, steps)], target_delta) <= target_epsilon

    high = 1.0
    while not fits(high):
        high *= 2
        if high > _MOST_NOISE:
            raise PrivacyError(
                f"epsilon {target_epsilon:g} leaves no room for {steps} steps beside what this site has spent: "
                "raise the target, or end here."
            )
    low = 0.0
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def affordable_steps(history: Sequence[Steps], wanted: Steps, *, target_epsilon: float, target_delta: float) -> int:
    """How many of the wanted steps the target allows after this history."""
    limit = target_epsilon * (1 + _ROUNDING)

    def fits(count: int) -> bool:
        return count == 0 or epsilon([*history, _first(wanted, count)], target_delta) <= limit

    return _last_true(fits, wanted.steps)


def merged(history: Sequence[Steps]) -> tuple[Steps, ...]:
    """The same history with equal neighbours joined."""
    found: list[Steps] = []
    for one in history:
        last = found[-1] if found else None
        if last and (last.noise_multiplier, last.sample_rate) == (one.noise_multiplier, one.sample_rate):
            found[-1] = _first(last, last.steps + one.steps)
        elif one.steps:
            found.append(one)
    return tuple(found)


def _rows(history: Sequence[Steps]) -> list[tuple[float, float, int]]:
    return [(one.noise_multiplier, one.sample_rate, one.steps) for one in merged(history)]


def _first(wanted: Steps, count: int) -> Steps:
    return Steps(wanted.noise_multiplier, wanted.sample_rate, count)


def _last_true(holds: Callable[[int], bool], most: int) -> int:
    """The greatest count up to `most` for which `holds`, given that it holds up to there and not beyond."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
