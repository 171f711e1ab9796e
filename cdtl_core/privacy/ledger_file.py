"""The file of a site's privacy ledger: read and checked, repaired after a crash, appended to.

JSON lines, each with the hash of all lines before it; ``head.json`` beside it holds their number, so that an old copy
is detected.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cdtl_core.errors import CheckpointError, PrivacyError
from cdtl_core.privacy.accounting import Steps, epsilon, merged
from cdtl_core.privacy.ledger_entries import (
    ENTRY,
    Commitment,
    Entry,
    Opening,
    Plan,
    Reservation,
    Unprotected,
)
from cdtl_core.system.chained import link
from cdtl_core.system.durable import append_line, replace_json, unwritable
from cdtl_core.system.foreign import parse_json

__all__ = ["LEDGER_FILE", "PrivacyLedger", "append", "ledger_exists", "read_ledger", "repaired"]

LEDGER_FILE, _HEAD = "ledger.jsonl", "head.json"


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
    path = folder / LEDGER_FILE
    return (folder / _HEAD).exists() or (path.exists() and b"\n" in path.read_bytes())


def read_ledger(folder: Path) -> PrivacyLedger:
    """Read and check a ledger; a last line torn by a crash is ignored, since no training followed it.

    Raises:
        PrivacyError: It is missing, damaged, or shorter than it was.
    """
    path, known = folder / LEDGER_FILE, _known_length(folder)  # the length first: another process may append meanwhile
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


def repaired(folder: Path) -> PrivacyLedger:
    """Repair a ledger after a crash, ready for the next line: no torn line, its length noted."""
    ledger, path = read_ledger(folder), folder / LEDGER_FILE
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


def append(folder: Path, ledger: PrivacyLedger, entry: Entry) -> PrivacyLedger:
    """Append an entry, synced to the disk, and note the new length; returns the ledger with it.

    Raises:
        PrivacyError: The disk takes no more.
    """
    value = entry.model_dump(mode="json")
    head = link(ledger.head, value)
    try:
        append_line(folder / LEDGER_FILE, _line(value, head))
    except CheckpointError:
        raise PrivacyError(
            f"the privacy ledger {folder / LEDGER_FILE} cannot be written, so nothing may be trained: free disk "
            "space, or fix its permissions."
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
