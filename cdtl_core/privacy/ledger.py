"""A site's privacy ledger: all steps on its patients' images, over every round, run and restart.

It is one file of JSON lines, appended and synced to the disk; each line carries the hash of all lines before it. Steps
are reserved BEFORE training; a reservation without a commitment counts in full. ``head.json`` in the same folder holds
the length of the ledger, so that an old copy is detected.
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cdtl_core.errors import CheckpointError, PrivacyError
from cdtl_core.privacy.accounting import Steps, affordable_steps, epsilon, merged, plan_noise
from cdtl_core.privacy.ledger_entries import (
    ENTRY,
    MECHANISM,
    Commitment,
    Entry,
    Opening,
    Plan,
    Reservation,
    Unprotected,
)
from cdtl_core.system.chained import link
from cdtl_core.system.durable import append_line, locked, replace_bytes, replace_json, unwritable
from cdtl_core.system.foreign import parse_json

__all__ = ["Budget", "Opening", "Plan", "PrivacyLedger", "Reservation", "commit", "open_ledger", "read_ledger"]
__all__ += ["ledger_exists", "note_unprotected", "reserve"]

_WORTHLESS = 4.0
"""Largest noise, as a multiple of the noise of an empty ledger; with more, an update would only harm the others."""

_FILE, _HEAD = "ledger.jsonl", "head.json"


@dataclass(frozen=True)
class Budget:
    """What a run may spend at a site: epsilon at delta over the WHOLE ledger.

    `steps` of rate q are the steps over all rounds of the run.
    """

    target_epsilon: float
    target_delta: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class PrivacyLedger:
    """A ledger as read: its entries in order, the first an `Opening`."""

    entries: tuple[Entry, ...]
    head: str

    @property
    def opening(self) -> Opening:
        """The first line."""
        first = self.entries[0]
        assert isinstance(first, Opening)  # noqa: S101 - read_ledger has made sure
        return first

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """All reservations, in order; the n-th has number n - 1."""
        return tuple(entry for entry in self.entries if isinstance(entry, Reservation))

    @property
    def history(self) -> tuple[Steps, ...]:
        """All steps that count: committed ones, and reserved ones without a commitment.

        Steps of an earlier mechanism are excluded: their noise gives no bound, so there is no number to add.
        """
        steps = [(one, self.taken.get(one.number, one.steps)) for one in self.reservations if not one.faulty]
        return merged([Steps(one.noise_multiplier, one.sample_rate, count) for one, count in steps])

    @property
    def taken(self) -> dict[int, int]:
        """Committed steps, by the number of their reservation."""
        return {entry.number: entry.steps for entry in self.entries if isinstance(entry, Commitment)}

    @property
    def faulty(self) -> tuple[Reservation, ...]:
        """Reservations of an earlier mechanism whose steps were taken, or may have been."""
        return tuple(one for one in self.reservations if one.faulty and self.taken.get(one.number, one.steps))

    @property
    def unprotected(self) -> tuple[str, ...]:
        """Runs in which the site sent updates without privacy."""
        return tuple(entry.run for entry in self.entries if isinstance(entry, Unprotected))

    def plan_of(self, run: str) -> Plan | None:
        """Return the newest plan of a run."""
        plans = [entry for entry in self.entries if isinstance(entry, Plan) and entry.run == run]
        return plans[-1] if plans else None

    def epsilon(self, target_delta: float) -> float:
        """Return the epsilon spent so far, by the RDP accountant."""
        return epsilon(self.history, target_delta)


def ledger_exists(folder: Path) -> bool:
    """Whether this site has, or had, a ledger; a first line torn by a crash does not count."""
    path = folder / _FILE
    return (folder / _HEAD).exists() or (path.exists() and b"\n" in path.read_bytes())


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
            replace_bytes(folder / _FILE, b"")  # left by a first line that a crash tore
            number, facts = secrets.token_hex(16), published or {}
            new = Opening(
                at=clock(), mechanism=MECHANISM, ledger=number, site=site, num_patients=num_patients, published=facts
            )
            return _append(folder, PrivacyLedger((), ""), new)
        return _mended(folder)


def read_ledger(folder: Path) -> PrivacyLedger:
    """Read and check a ledger; a last line torn by a crash is ignored, since no training followed it.

    Raises:
        PrivacyError: It is missing, damaged, or shorter than it was.
    """
    path, known = folder / _FILE, _known_length(folder)  # the length first: another process may append meanwhile
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})") from None
    entries: list[Entry] = []
    head = ""
    for number, line in enumerate(text.split(b"\n")[:-1], start=1):
        try:
            value = parse_json(line)
            entry, head = ENTRY.validate_python(value["entry"]), link(head, value["entry"])
            valid = _line(value["entry"], head).encode() == line and isinstance(entry, Opening) == (number == 1)
        except (ValueError, KeyError, TypeError, ValidationError):
            valid = False
        if not valid:
            raise _refusal(path, f"is damaged in line {number}")
        entries.append(entry)
    if known is None and len(entries) > 1 and not (folder / _HEAD).exists():
        raise _refusal(path, f"has {len(entries)} lines and no {_HEAD} in its folder")
    if len(entries) < (known or 1):
        raise _refusal(path, f"has {len(entries)} lines but had {known or 1}")
    return PrivacyLedger(tuple(entries), head)


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
        ledger = _mended(folder)
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
        _append(folder, ledger, entry)
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
        ledger = _mended(folder)
        said = any(isinstance(entry, Commitment) and entry.number == reservation.number for entry in ledger.entries)
        if said or not 0 <= steps <= reservation.steps or reservation not in ledger.entries:
            raise PrivacyError(f"{steps} steps cannot be committed of the {reservation.steps} reserved: this is a bug.")
        _append(folder, ledger, Commitment(at=clock(), mechanism=MECHANISM, number=reservation.number, steps=steps))


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
        ledger = _mended(folder)
        for run in sorted(set(runs) - set(ledger.unprotected)):
            ledger = _append(folder, ledger, Unprotected(at=clock(), mechanism=MECHANISM, run=run))
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
    return _append(folder, ledger, plan), plan


def _budget_of(plan: Plan) -> Budget:
    return Budget(plan.target_epsilon, plan.target_delta, plan.sample_rate, plan.steps)


def _mended(folder: Path) -> PrivacyLedger:
    """Repair a ledger after a crash, ready for the next line: no torn line, its length noted."""
    ledger, path = read_ledger(folder), folder / _FILE
    whole = path.read_bytes().rfind(b"\n") + 1
    if whole != path.stat().st_size:
        _cut(path, whole)
    if _known_length(folder) != len(ledger.entries):
        replace_json(folder / _HEAD, {"lines": len(ledger.entries)})
    return ledger


def _cut(path: Path, size: int) -> None:
    try:
        os.truncate(path, size)
    except OSError as error:
        raise unwritable(path, error) from None


def _append(folder: Path, ledger: PrivacyLedger, entry: Entry) -> PrivacyLedger:
    value = entry.model_dump(mode="json")
    head = link(ledger.head, value)
    try:
        append_line(folder / _FILE, _line(value, head))
    except CheckpointError:
        raise PrivacyError(
            f"the privacy ledger {folder / _FILE} cannot be written, so nothing may be trained: free disk space, or "
            "fix its permissions."
        ) from None
    entries = (*ledger.entries, entry)
    replace_json(folder / _HEAD, {"lines": len(entries)})
    return PrivacyLedger(entries, head)


def _line(value: object, head: str) -> str:
    return json.dumps({"entry": value, "hash": head})


def _known_length(folder: Path) -> int | None:
    """Return the smallest known length of the ledger; None before a second line exists."""
    path = folder / _HEAD
    try:
        return int(parse_json(path.read_bytes())["lines"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise _refusal(path, "is damaged") from None


def _refusal(path: Path, what: str) -> PrivacyError:
    return PrivacyError(
        f"the privacy ledger {path} {what}, so the spent epsilon is unknown: restore the newest copy of its folder."
    )
