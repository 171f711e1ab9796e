"""Rules and their findings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cdtl_core.quality.cohort import Cohort

__all__ = ["Finding", "Hit", "Rule", "Severity", "count_of"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Hit:
    """One finding of a rule: a sentence, the files concerned, worst first, and advice in place of the rule's."""

    message: str
    files: tuple[Path, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Rule:
    """One check.

    Attributes:
        id: Its name in reports and settings.
        severity: An error must be fixed or waived before training; a warning should be read.
        what: What it looks for, for the documentation.
        advice: What to do about a finding.
        find: The function that examines the cohort.
    """

    id: str
    severity: Severity
    what: str
    advice: str
    find: Callable[[Cohort], Iterable[Hit]]


@dataclass(frozen=True)
class Finding:
    """A finding as the report shows it.

    Attributes:
        rule: Id of the rule.
        severity: Severity of the rule.
        message: One sentence.
        advice: What to do.
        files: The files concerned, worst first; the two files of a pair follow each other.
        waived: Why the site switched the rule off, empty if it did not.
    """

    rule: str
    severity: Severity
    message: str
    advice: str
    files: tuple[Path, ...]
    waived: str = ""


def count_of(count: int, noun: str, verb: str = "", *, total: int | None = None) -> str:
    """Return a count with its noun and verb in agreement: ``1 image shows``, ``2 of 9 images show``.

    Args:
        count: The number.
        noun: In the singular.
        verb: In the plural.
        total: Shown as ``of total`` if given.
    """
    named = noun if (total or count) == 1 else noun + "s"
    agreed = {"": "", "have": "has", "are": "is"}.get(verb, verb + "s") if count == 1 else verb
    of = f" of {total}" if total is not None else ""
    return f"{count}{of} {named} {agreed}".rstrip()
