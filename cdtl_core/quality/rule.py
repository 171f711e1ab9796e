"""What a rule is and what it finds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cdtl_core.quality.cohort import Cohort

__all__ = ["Finding", "Hit", "Rule", "Severity", "count_of"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Hit:
    """One thing a rule found: a sentence, and the files concerned, worst first."""

    message: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One check.

    Attributes:
        id: What it is called in reports and settings.
        severity: An error must be mended or waived before training; a warning should be read.
        what: What it looks for, for the documentation.
        advice: What to do about a finding.
        find: Looks at the cohort.
    """

    id: str
    severity: Severity
    what: str
    advice: str
    find: Callable[[Cohort], Iterable[Hit]]


@dataclass(frozen=True)
class Finding:
    """What the check tells a person.

    Attributes:
        rule: Id of the rule.
        severity: Of the rule.
        message: One sentence.
        advice: What to do.
        files: The files concerned, worst first; a pair stands side by side.
        waived: Why the site switched the rule off, empty if it did not.
    """

    rule: str
    severity: Severity
    message: str
    advice: str
    files: tuple[Path, ...]
    waived: str = ""


def count_of(count: int, noun: str, verb: str = "", *, total: int | None = None) -> str:
    """A count that agrees with its noun and plural verb: ``1 image shows``, ``2 of 9 images show``."""
    named = noun if (total or count) == 1 else noun + "s"
    agreed = {"": "", "have": "has", "are": "is"}.get(verb, verb + "s") if count == 1 else verb
    of = f" of {total}" if total is not None else ""
    return f"{count}{of} {named} {agreed}".rstrip()
