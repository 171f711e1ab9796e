"""What a one-run audit certifies: a lower bound on epsilon from guesses at which canaries were trained on.

Each of m canaries is in or out by a fair coin. Under (epsilon, delta)-DP an adversary who sees all messages guesses so
many coins right with so little chance; more right guesses refute that epsilon. It refutes, it never proves.

Source: Steinke, Nasr, Jagielski 2023, theorem 5.2 and appendix D.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import binom

__all__ = ["CONFIDENCE", "correct_guesses", "lower_bound", "num_guesses", "p_value"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
_FEWEST_GUESSES = 100
_SHARE_GUESSED = 5
_MOST, _HALVINGS = 50.0, 60


def num_guesses(canaries: int) -> int:
    """How many canaries are guessed, fixed before anything is trained: a fifth, at least 100, at most all."""
    return min(canaries, max(_FEWEST_GUESSES, canaries // _SHARE_GUESSED))


def correct_guesses(scores: Floats, present: Bools, guesses: int) -> int:
    """How many guesses are right: the top half of them is guessed in, the bottom half out, none in between.

    Args:
        scores: The higher the likelier in, M.
        present: Whether the coin put a canary in, M.
        guesses: As fixed beforehand.
    """
    order = np.argsort(scores, kind="stable")
    out, into = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return int(np.sum(~present[out]) + np.sum(present[into]))


def p_value(epsilon: float, *, canaries: int, guesses: int, correct: int, delta: float) -> float:
    """Greatest chance of at least `correct` right guesses under (epsilon, delta)-DP."""
    right = expit(epsilon)  # of randomized response
    chance = float(binom.sf(correct - 1, guesses, right))
    if not correct:
        return 1.0
    short = np.arange(1, correct + 1)  # by how much a binomial count falls short of `correct`
    falls = np.cumsum(binom.pmf(correct - short, guesses, right)) / short
    return min(1.0, chance + 2 * canaries * delta * float(falls.max()))


def lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """The greatest epsilon that the guesses refute at this delta and confidence; 0 if they refute none."""

    def refuted(epsilon: float) -> bool:
        return p_value(epsilon, canaries=canaries, guesses=guesses, correct=correct, delta=delta) < 1 - confidence

    low, high = 0.0, _MOST
    if not refuted(low):
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
