"""The error family: one sentence each (what, got, do) and one exit code per kind.

::

    CdtlError            1
    ├── ConfigError      3   a setting is unknown, ill-typed or contradicts another
    ├── DataError        4   a file, label, split or cohort cannot be used
    ├── ModelError       5   weights do not fit, a backbone is unknown
    ├── CheckpointError  6   a run directory cannot be read, written or resumed
    ├── FederationError  7   sites and server do not agree, or too few answer
    └── PrivacyError     8   a privacy promise would be broken

Errors are raised where the fault is known and caught at the edges only (command line, client, server).
Exit code 2 is the command line's own (wrong usage).

Through Flower an error travels as a code and a fixed sentence, never with its text: `reply_error`. The codes start at
`ERROR_CODE_BASE`, above all of Flower's own.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BY_SCRIPT",
    "ERROR_CODE_BASE",
    "KINDS",
    "CdtlError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FederationError",
    "ModelError",
    "PrivacyError",
    "did_you_mean",
    "error_of_code",
    "reply_error",
]

ERROR_CODE_BASE = 100
BY_SCRIPT = " If a script registers it, run the command through that script, which registers at its top level."
"""Last sentence of an error about an unknown name of a kind that scripts can register."""


def did_you_mean(name: str, known: Iterable[str], remedy: str = "use") -> str:
    """Return how a sentence about an unknown name goes on: the known name most like it, if there is one, and a remedy.

    Args:
        name: The unknown name.
        known: The known names.
        remedy: What to do, lower case; by default the sentence goes on with the names to use.
    """
    near = get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f": did you mean {near[0]}? {remedy[0].upper()}{remedy[1:]}" if near else f": {remedy}"


class CdtlError(Exception):
    """Base of every error that cdtl raises on purpose; its text is one sentence for a person."""

    exit_code = 1


class ConfigError(CdtlError):
    """A setting is unknown, ill-typed or contradicts another."""

    exit_code = 3


class DataError(CdtlError):
    """A file, a label, a split or a cohort cannot be used."""

    exit_code = 4


class ModelError(CdtlError):
    """Weights do not fit a model, or a backbone is unknown."""

    exit_code = 5


class CheckpointError(CdtlError):
    """A run directory cannot be read, written or resumed."""

    exit_code = 6


class FederationError(CdtlError):
    """Sites and server do not agree, or too few sites answer."""

    exit_code = 7


class PrivacyError(CdtlError):
    """A privacy promise would be broken."""

    exit_code = 8


KINDS = (CdtlError, ConfigError, DataError, ModelError, CheckpointError, FederationError, PrivacyError)


def error_of_code(exit_code: int) -> type[CdtlError]:
    """The error class of an exit code; `CdtlError` for a code of no kind."""
    return {kind.exit_code: kind for kind in KINDS}.get(exit_code, CdtlError)


def reply_error(kind: type[CdtlError]) -> tuple[int, str]:
    """Code and sentence with which an error of this kind leaves a site: all that a server is told."""
    sentence = f"{kind.__name__}: the site could not continue; its own log gives the reason."
    return ERROR_CODE_BASE + kind.exit_code, sentence
