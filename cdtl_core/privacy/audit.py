"""One-run privacy audit: a lower bound on epsilon from guesses about which canaries were trained on.

Each of m canaries is in or out by a fair coin. Under (epsilon, delta)-DP an adversary who sees all messages has little
chance to guess many coins right, so many right guesses refute that epsilon. An audit refutes; it never proves.

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
    """Return the number of guesses, fixed before training: a fifth of the canaries, at least 100, at most all."""
    return min(canaries, max(_FEWEST_GUESSES, canaries // _SHARE_GUESSED))


def correct_guesses(scores: Floats, present: Bools, guesses: int) -> int:
    """Return the number of right guesses: the top half of the guesses is "in", the bottom half "out".

    Args:
        scores: Higher means more likely in, M.
        present: Whether the coin put a canary in, M.
        guesses: Number of guesses, fixed beforehand.
    """
    order = np.argsort(scores, kind="stable")
    out, into = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return int(np.sum(~present[out]) + np.sum(present[into]))


def p_value(epsilon: float, *, canaries: int, guesses: int, correct: int, delta: float) -> float:
    """Return the largest probability of at least `correct` right guesses under (epsilon, delta)-DP.

    Args:
        epsilon: The claim.
        canaries: Number of canaries.
        guesses: Number of guesses.
        correct: Number of right guesses.
        delta: The claim's delta.
    """
    right = expit(epsilon)  # of randomized response
    chance = float(binom.sf(correct - 1, guesses, right))
    if not correct:
        return 1.0
    short = np.arange(1, correct + 1)  # distance of a binomial count below `correct`
    falls = np.cumsum(binom.pmf(correct - short, guesses, right)) / short
    return min(1.0, chance + 2 * canaries * delta * float(falls.max()))


def lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the largest epsilon that the guesses refute; 0 if they refute none.

    Args:
        canaries: Number of canaries.
        guesses: Number of guesses.
        correct: Number of right guesses.
        delta: Delta of the refuted epsilon.
        confidence: In (0, 1).
    """

    def refuted(epsilon: float) -> bool:
        return p_value(epsilon, canaries=canaries, guesses=guesses, correct=correct, delta=delta) < 1 - confidence

    low, high = 0.0, _MOST
    if not refuted(low):
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
