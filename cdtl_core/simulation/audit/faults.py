"""Rounds as a ledger grants them, and the four ways in which an audit breaks them on purpose.

Each fault changes the input of the mechanism; the mechanism itself has no switch for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from cdtl_core.config import RunConfig
from cdtl_core.models.draws import Bytes, Draws, Ints
from cdtl_core.privacy.ledger import Budget, Reservation, commit, open_ledger, reserve
from cdtl_core.privacy.mechanism import Grant, Mechanism

__all__ = ["Fault", "OneSequence", "Turn", "granted"]

_UNBOUNDED = 1e6


class Fault(StrEnum):
    """The broken part.

    No noise; gradients not clipped, with the same noise; a new ledger in every round; draws of all patients from one
    sequence with a known seed, as in earlier versions.
    """

    NONE = "none"
    NOISE = "noise"
    CLIP = "clip"
    ACCOUNTANT = "accountant"
    DRAWS = "draws"


@dataclass(frozen=True)
class Turn:
    """A round: the mechanism in the ledger, and the one that training uses, which differs if it is broken.

    Attributes:
        centres: Whether it computes the centre of the features; else it trains.
        epoch: From 0, counted over turns that train.
        draws: Each patient's random numbers; None: her own, as intended.
    """

    claimed: Mechanism
    grant: Grant
    centres: bool
    epoch: int
    draws: Draws | None = None


class OneSequence:
    """Draws of all patients from one sequence: without one patient, all later patients get other draws."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, purpose: str, step: int, identities: Ints, count: int) -> Bytes:
        """Return bytes B x count, by a patient's position in the cohort.

        Args:
            purpose: Distinguishes different uses in one step.
            step: Number of the step.
            identities: B patients.
            count: Bytes per patient.
        """
        rng = np.random.default_rng([self._seed, step, *purpose.encode()])
        return rng.integers(0, 256, (len(identities), count), np.uint8)


def granted(
    config: RunConfig, num_patients: int, folder: Path, broken: Fault, *, centres: bool = True
) -> Iterator[Turn]:
    """Reserve each round in the ledger, yield it, and commit it when the next one is requested.

    The steps for the centre have a separate round.

    Args:
        config: The run's settings.
        num_patients: As published.
        folder: For the ledger, or for one per round.
        broken: What to break.
        centres: Whether to compute a centre, if the run has one.
    """
    centring = [config.dp.centre_steps] if config.model.levels and centres else []
    rounds = centring + [config.train.steps] * config.federation.rounds
    rate = min(1.0, (config.dp.batch_patients or num_patients) / num_patients)
    budget = Budget(config.dp.target_epsilon, config.dp.target_delta, rate, sum(rounds))
    for number, steps in enumerate(rounds):
        restarts = broken is Fault.ACCOUNTANT
        ledger = folder / f"{number}" if restarts else folder
        open_ledger(ledger, site="audit", num_patients=num_patients)
        terms = replace(budget, steps=steps) if restarts else budget
        reservation = reserve(ledger, run="audit", round=number, steps=steps, budget=terms)
        if reservation is None:
            return
        finds = number < len(centring)
        claimed = _claimed(reservation, config, num_patients)
        grant = Grant(_given(claimed, broken, finds), reservation.steps)
        draws = OneSequence(config.seed) if broken is Fault.DRAWS else None
        yield Turn(claimed, grant, finds, number - len(centring), draws)
        commit(ledger, reservation, reservation.steps)


def _claimed(reservation: Reservation, config: RunConfig, num_patients: int) -> Mechanism:
    return Mechanism(
        noise_multiplier=reservation.noise_multiplier,
        sample_rate=reservation.sample_rate,
        max_grad_norm=config.dp.max_grad_norm,
        num_patients=num_patients,
    )


def _given(claimed: Mechanism, broken: Fault, centres: bool) -> Mechanism:
    if broken is Fault.NOISE:
        return replace(claimed, noise_multiplier=0.0)
    if broken is Fault.CLIP and not centres:
        noise = claimed.noise_multiplier / _UNBOUNDED
        return replace(claimed, noise_multiplier=noise, max_grad_norm=claimed.max_grad_norm * _UNBOUNDED)
    return claimed
