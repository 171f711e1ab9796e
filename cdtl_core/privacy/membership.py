"""Membership inference by loss: whether log-loss separates patients trained on from others."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cdtl_core.metrics.metrics import Interval, auroc_interval

__all__ = ["FALSE_ALARMS", "Membership", "membership", "true_positive_rate"]

Floats = npt.NDArray[np.float64]

FALSE_ALARMS = 0.01
_RESAMPLES = 2000


@dataclass(frozen=True)
class Membership:
    """Result of a loss attack; 0.5 and `FALSE_ALARMS` are chance.

    Attributes:
        members: Number of patients trained on.
        others: Number of patients of the same site not trained on.
        auroc: With its interval.
        tpr: Share of members found at `FALSE_ALARMS`, with its interval.
    """

    members: int
    others: int
    auroc: Interval
    tpr: Interval

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON; a missing end of an interval is None."""
        found: dict[str, Any] = {"members": self.members, "others": self.others}
        for name, value in (("auroc", self.auroc), ("tpr", self.tpr)):
            found[name] = {key: number if math.isfinite(number) else None for key, number in asdict(value).items()}
        return found


def membership(members: Floats, others: Floats, *, seed: int) -> Membership:
    """Return the attack's result from one log-loss per patient; a low loss suggests a member.

    Args:
        members: Losses of patients trained on.
        others: Losses of patients not trained on.
        seed: Seed of the bootstrap over patients.
    """
    inside = np.repeat([True, False], [len(members), len(others)])
    scores = -np.concatenate([members, others])
    area = auroc_interval(inside, scores, np.arange(len(scores)), seed=seed)
    rng = np.random.default_rng(seed)
    draws = [true_positive_rate(_resampled(members, rng), _resampled(others, rng)) for _ in range(_RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975])
    tpr = Interval(true_positive_rate(members, others), float(low), float(high))
    return Membership(len(members), len(others), area, tpr)


def true_positive_rate(members: Floats, others: Floats) -> float:
    """Return the share of members with a loss below all but `FALSE_ALARMS` of the others; ties count as others."""
    allowed = int(FALSE_ALARMS * len(others))
    return float(np.mean(members < np.sort(others)[allowed]))


def _resampled(values: Floats, rng: np.random.Generator) -> Floats:
    return values[rng.integers(len(values), size=len(values))]
