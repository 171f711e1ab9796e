"""Forms that a text must have, and what is wrong with a value, in words: no sentence of pydantic reaches a user."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

__all__ = ["DEVICE", "FORMS", "HASH", "LABEL_HASH", "LEDGER_ID", "MODEL_NAME", "NAME", "PACKAGE", "Fault", "faults_of"]
__all__ += ["PERSON", "PUBLIC_KEY", "ROW_NAME", "SETTING_NAME", "SLICES", "VERSION"]

NAME = r"^[a-z0-9][a-z0-9_-]{0,47}$"
MODEL_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$"
HASH = r"^[0-9a-f]{64}$"
LABEL_HASH = r"^[0-9a-f]{8}$"
LEDGER_ID = r"^[0-9a-f]{32}$"
VERSION = r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,47}$"
SETTING_NAME = r"^[A-Za-z0-9_-]{1,40}(\.[A-Za-z0-9_-]{1,40}){0,3}$"
DEVICE = r"^(auto|cpu|mps|cuda(:\d+)?|GPU-[0-9A-Fa-f-]{36})$"
PACKAGE = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$"
ROW_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,47}$"
PERSON = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,47}$"
SLICES = r"^(all|\d*:\d*(:[1-9]\d*)?)$"
PUBLIC_KEY = r"^ssh-ed25519 [A-Za-z0-9+/]{68}$"

FORMS: Mapping[str, str] = {
    NAME: "a name of a-z, 0-9, - and _ (at most 48 characters, a letter or digit first)",
    MODEL_NAME: "a name of letters, digits, _, . and - (at most 96 characters, no . or - first)",
    HASH: "64 digits 0-9 and a-f",
    r"^([0-9a-f]{64})?$": "64 digits 0-9 and a-f, or empty",
    LABEL_HASH: "8 digits 0-9 and a-f",
    LEDGER_ID: "32 digits 0-9 and a-f",
    VERSION: "a version of letters, digits, ., + and - (at most 48 characters)",
    SETTING_NAME: "the name of a setting, such as train.lr",
    DEVICE: "auto, cpu, mps, cuda, cuda:0 (any number), or a GPU's UUID as nvidia-smi -L prints it",
    PACKAGE: "the name of a Python package",
    ROW_NAME: "a name of letters, digits, blanks, ., _, + and - (at most 48 characters, a letter or digit first)",
    PERSON: "a name of letters, digits, blanks, ., _ and - (at most 48 characters, a letter or digit first)",
    SLICES: "all, or a range such as 100:300 or 100:300:2",
    PUBLIC_KEY: "a public key as cdtl site approver prints it (ssh-ed25519 AAAA...)",
}
"""Pattern to its words."""

_KINDS: Mapping[str, str] = {
    "bool": "must be true or false",
    "date": "must be a date and time",
    "dict": "must be a table",
    "extra": "is unknown",
    "finite": "must be a finite number",
    "float": "must be a number",
    "frozen": "must be a list",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "int": "must be a whole number",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "list": "must be a list",
    "literal": "must be {expected}",
    "mapping": "must be a table",
    "missing": "is missing",
    "model": "must be a table",
    "none": "must be left out",
    "path": "must be a path",
    "set": "must be a list",
    "string": "must be text",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have {max_length} entries at most",
    "too_short": "must have {min_length} or more entries",
    "tuple": "must be a list",
}
"""Type of an error of pydantic, or its first word, to what is wrong; names in braces are of the error's context."""
_BRANCH = re.compile(
    r"bool|int|float|str|none|constrained-\w+|[A-Z]\w+|(literal|tuple|list|dict|function-\w+|json)\[.*"
)
"""Last part of an error's place if it names a kind of value, where several are allowed."""


class Fault(NamedTuple):
    """A wrong value: its place, what is wrong with it, the type of pydantic's error, and the value."""

    place: tuple[str | int, ...]
    reason: str
    type: str
    value: Any


def faults_of(error: ValidationError) -> list[Fault]:
    """Return all wrong values; where several kinds of values are allowed, one fault names them all."""
    found: dict[tuple[str | int, ...], Fault] = {}
    for one in _each(error):
        before = found.get(one.place)
        if before is None:
            found[one.place] = one
        elif one.type not in {"extra_forbidden", "missing"}:
            also = one.reason.removeprefix("must be ")
            found[one.place] = before._replace(reason=f"{before.reason} or {also}")
    deeper = {one.place[:-1] for one in found.values()}  # a list that lost a wrong entry also counts as too short
    return [one for one in found.values() if one.type != "too_short" or one.place not in deeper]


def _each(error: ValidationError) -> Iterator[Fault]:
    listed = error.errors(include_url=False)
    places = [one["loc"] for one in listed]
    for one in listed:
        place, kind = one["loc"], one["type"]
        beside = sum(other[: len(place) - 1] == place[:-1] for other in places)
        if place and beside > 1 and kind not in {"extra_forbidden", "missing"} and _BRANCH.fullmatch(str(place[-1])):
            place = place[:-1]
        yield Fault(place, _reason(kind, one.get("ctx", {}), one["msg"]), kind, one["input"])


def _reason(kind: str, context: Mapping[str, Any], text: str) -> str:
    if kind in {"value_error", "assertion_error"}:
        return text.partition(", ")[2]
    if kind == "string_pattern_mismatch":
        return f"must be {FORMS.get(context['pattern'], 'of another form')}"
    form = _KINDS.get(kind) or _KINDS.get(kind.partition("_")[0], "has a value that is not allowed")
    shown = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
    return form.format(**shown).replace("'", "")
