"""A site's privacy ledger: all steps on its patients' images, over every round, run and restart.

Steps are reserved BEFORE training; a reservation without a commitment counts in full. `ledger_file` reads and
writes the file.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.errors import PrivacyError
from cdtl_core.privacy.accounting import Steps, affordable_steps, plan_noise
from cdtl_core.privacy.ledger_entries import (
    MECHANISM,
    Commitment,
    Opening,
    Plan,
    Reservation,
    Unprotected,
)
from cdtl_core.privacy.ledger_file import LEDGER_FILE, PrivacyLedger, append, ledger_exists, repaired
from cdtl_core.system.durable import locked, replace_bytes

__all__ = ["Budget", "Opening", "Plan", "Reservation", "commit", "note_unprotected", "open_ledger", "reserve"]

_WORTHLESS = 4.0
"""Largest noise, as a multiple of the noise of an empty ledger; with more, an update would only harm the others."""


@dataclass(frozen=True)
class Budget:
    """What a run may spend at a site: epsilon at delta over the WHOLE ledger.

    `steps` of rate q are the steps over all rounds of the run.
    """

    target_epsilon: float
    target_delta: float
    sample_rate: float
    steps: int


def open_ledger(
    folder: Path,
    *,
    site: str,
    num_patients: int,
    published: Mapping[str, int] | None = None,
    clock: Callable[[], float] = time.time,
) -> PrivacyLedger:
    """Return the ledger in `folder`; the first call writes its first line.

    Args:
        folder: Folder of the ledger.
        site: The site's name.
        num_patients: Training patients as published, rounded; stored in a new ledger and constant from then on.
        published: Other published numbers, stored in the same way.
        clock: Seconds since 1970.

    Raises:
        PrivacyError: The ledger is missing although it existed, damaged, or shorter than it was.
    """
    with locked(folder, wait=True):
        if not ledger_exists(folder):
            replace_bytes(folder / LEDGER_FILE, b"")  # left by a first line that a crash tore
            number, facts = secrets.token_hex(16), published or {}
            new = Opening(
                at=clock(), mechanism=MECHANISM, ledger=number, site=site, num_patients=num_patients, published=facts
            )
            return append(folder, PrivacyLedger((), ""), new)
        return repaired(folder)


def reserve(
    folder: Path, *, run: str, round: int, steps: int, budget: Budget, clock: Callable[[], float] = time.time
) -> Reservation | None:
    """Reserve a round's steps, or fewer if the budget allows no more; None: the site sends nothing more.

    The noise is planned with a run's first reservation, for all its steps, given everything that was spent before.

    Args:
        folder: Folder of the ledger.
        run: Name and method of the run.
        round: Number of the round.
        steps: Steps of the round.
        budget: What the run may spend.
        clock: Seconds since 1970.

    Raises:
        PrivacyError: The ledger is missing, damaged, or shorter than it was.
    """
    with locked(folder, wait=True):
        ledger = repaired(folder)
        plan = ledger.plan_of(run)
        if plan is None or _budget_of(plan) != budget:
            ledger, plan = _add_plan(folder, ledger, run, budget, clock)
        if plan is None:
            return None
        wanted = Steps(plan.noise_multiplier, plan.sample_rate, steps)
        limits = {"target_epsilon": budget.target_epsilon, "target_delta": budget.target_delta}
        allowed = affordable_steps(ledger.history, wanted, **limits)
        if not allowed:
            return None
        rates = {"noise_multiplier": plan.noise_multiplier, "sample_rate": plan.sample_rate}
        about = {"mechanism": MECHANISM, "number": len(ledger.reservations), "run": run, "round": round}
        entry = Reservation.model_validate({"at": clock(), **about, **rates, "steps": allowed})
        append(folder, ledger, entry)
        return entry


def commit(folder: Path, reservation: Reservation, steps: int, *, clock: Callable[[], float] = time.time) -> None:
    """Record how many of the reserved steps were taken.

    Args:
        folder: Folder of the ledger.
        reservation: The reservation.
        steps: Steps taken.
        clock: Seconds since 1970.

    Raises:
        PrivacyError: More than were reserved, a second commitment, or the ledger is missing or damaged.
    """
    with locked(folder, wait=True):
        ledger = repaired(folder)
        said = any(isinstance(entry, Commitment) and entry.number == reservation.number for entry in ledger.entries)
        if said or not 0 <= steps <= reservation.steps or reservation not in ledger.entries:
            raise PrivacyError(f"{steps} steps cannot be committed of the {reservation.steps} reserved: this is a bug.")
        append(folder, ledger, Commitment(at=clock(), mechanism=MECHANISM, number=reservation.number, steps=steps))


def note_unprotected(folder: Path, runs: Iterable[str], *, clock: Callable[[], float] = time.time) -> PrivacyLedger:
    """Record runs without privacy that the ledger does not name yet.

    Args:
        folder: Folder of the ledger.
        runs: Names of the runs.
        clock: Seconds since 1970.

    Raises:
        PrivacyError: The ledger is missing, damaged, or shorter than it was.
    """
    with locked(folder, wait=True):
        ledger = repaired(folder)
        for run in sorted(set(runs) - set(ledger.unprotected)):
            ledger = append(folder, ledger, Unprotected(at=clock(), mechanism=MECHANISM, run=run))
        return ledger


def _add_plan(
    folder: Path, ledger: PrivacyLedger, run: str, budget: Budget, clock: Callable[[], float]
) -> tuple[PrivacyLedger, Plan | None]:
    terms = {"target_epsilon": budget.target_epsilon, "target_delta": budget.target_delta}
    rate, steps = budget.sample_rate, budget.steps
    try:
        noise = plan_noise(ledger.history, sample_rate=rate, steps=steps, **terms)
    except PrivacyError:
        return ledger, None
    if ledger.history and noise > _WORTHLESS * plan_noise((), sample_rate=rate, steps=steps, **terms):
        return ledger, None
    plan = Plan(
        at=clock(), mechanism=MECHANISM, run=run, noise_multiplier=noise, sample_rate=rate, steps=steps, **terms
    )
    return append(folder, ledger, plan), plan


def _budget_of(plan: Plan) -> Budget:
    return Budget(plan.target_epsilon, plan.target_delta, plan.sample_rate, plan.steps)
