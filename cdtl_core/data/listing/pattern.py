"""Label and patient from an image's path: a template such as ``{label}/{patient}/*``, or a regular expression."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cdtl_core.errors import DataError

__all__ = ["FIELDS", "PathPattern", "parse_pattern"]

FIELDS = ("label", "patient", "exam", "view", "laterality", "split", "group")
_MARK = re.compile(r"(\{[a-z_]+\}|\*\*|\*)")
_WILD = {"*": "[^/]*", "**": ".*"}


@dataclass(frozen=True)
class PathPattern:
    """A pattern on paths below a folder.

    Attributes:
        text: As given.
        expression: With a group for each field.
        fields: The fields that it finds.
        names_first: Whether file names are searched, and whole paths only if no name matches.
    """

    text: str
    expression: re.Pattern[str]
    fields: tuple[str, ...]
    names_first: bool

    def read(self, paths: Sequence[str]) -> list[dict[str, str]]:
        """Return the fields of each path; empty where the pattern does not match."""
        if self.names_first:
            found = [self._fields(path.rpartition("/")[2]) for path in paths]
            if any(found):
                return found
        return [self._fields(path) for path in paths]

    def _fields(self, text: str) -> dict[str, str]:
        match = self.expression.search(text)
        if match is None:
            return {}
        found = match.groupdict() if self.expression.groupindex else {"patient": match.group(1)}
        return {name: found[name] for name in self.fields if found.get(name)}


def parse_pattern(text: str) -> PathPattern | None:
    """Return the pattern of a template or a regular expression; None for an empty text.

    A template names folders and files from the left: ``*`` stands for any text within one name, ``**`` for any text. It
    applies to the path below the folder if it holds a slash, otherwise to the file's name. In a regular expression the
    fields are named groups, or the first group is the patient.

    Raises:
        DataError: The text is neither, or finds no field.
    """
    if not text:
        return None
    if re.search(r"\{[a-zA-Z_]", text):
        return _template(text)
    try:
        expression = re.compile(text)
    except re.error as error:
        raise DataError(f"'{text}' is not a regular expression ({error}): correct --patient-pattern.") from None
    groups = tuple(name for name in FIELDS if name in expression.groupindex)
    if expression.groups < 1 or (expression.groupindex and not groups):
        raise DataError(f"'{text}' has no group: put the patient's part in brackets, for example '(P[0-9]+)_'.")
    return PathPattern(text, expression, groups or ("patient",), "/" not in text)


def _template(text: str) -> PathPattern:
    parts = _MARK.split(text)
    fields = [part[1:-1] for part in parts if part.startswith("{") and _MARK.fullmatch(part)]
    wrong = [name for name in fields if name not in FIELDS] or [part for part in parts[::2] if set("{}") & set(part)]
    if wrong or len(set(fields)) < len(fields):
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise DataError(
            f"'{text}' is no template: write each of {known} at most once, for example {{label}}/{{patient}}/*."
        )
    written = "".join(_WILD.get(part) or _group(part) for part in parts)
    if "/" not in text:
        return PathPattern(text, re.compile(f"^{written}$"), tuple(fields), names_first=True)
    last = text.rpartition("/")[2]
    rest = "/.*" if re.fullmatch(r"\{[a-z]+\}", last) else "(?:/.*)?"  # a field alone at the end is a folder
    return PathPattern(text, re.compile(f"^{written}{rest}$"), tuple(fields), names_first=False)


def _group(part: str) -> str:
    return f"(?P<{part[1:-1]}>[^/]+?)" if part.startswith("{") else re.escape(part)
