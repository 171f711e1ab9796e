"""What comes from elsewhere: read without surprises, and shown to a person without effect on the screen.

Text of a coordinator, another site, an image or a manifest can hold escapes that hide or forge lines on a terminal. It
is shown through `visible` (one value on one line) or `shown` (a text of ours, whose lines stay lines).
"""

import json
import logging
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["get_logger", "is_plain", "log_to_stderr", "parse_json", "read_json", "shown", "visible"]

_MOST = 300  # characters of one foreign value: longer ones would push what matters off the screen
_MOST_LOGGED = 4000  # characters of one line of a log
_MOST_MARKS = 3  # accents on one letter; no script needs more, and a stack of them covers the lines around it
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(code) for code in range(0xFE00, 0xFE10)}
"""Characters that count as printable and show nothing."""


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: It is no JSON, no UTF-8, or nested so deeply that Python could not go through it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object that another process writes; empty if it is not there yet."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def is_plain(text: str) -> bool:
    """Whether a text is printed as it is: no control or format character, no invisible one, no stack of accents."""
    return _escaped(text) == text


def visible(value: object, most: int = _MOST) -> str:
    r"""A foreign value on one line: line breaks, escapes, text direction and invisible characters as ``\u001b``.

    Args:
        value: Anything; its `str` is shown.
        most: Characters that are shown; the number of those left out follows.
    """
    text = str(value)
    cut = f"... ({len(text) - most} more characters)" if len(text) > most else ""
    return _escaped(text[:most]) + cut


def shown(text: str) -> str:
    """A text of several lines, put together by us, without anything else that moves the cursor or hides text."""
    return "\n".join(_escaped(line) for line in text.split("\n"))


def get_logger(name: str) -> logging.Logger:
    """The logger of this name; each record is one visible line, whichever handler writes it.

    Lines of a traceback follow indented, so that none of them can pass for a record.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(one, _OneLine) for one in logger.filters):
        logger.addFilter(_OneLine())
    return logger


def log_to_stderr(form: str) -> None:
    """Log to stderr in this form, records of libraries too, each as one visible line."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_OneLine())
    logging.getLogger("httpx").setLevel(logging.WARNING)


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's text by what is safe to write; every record passes."""
        record.msg, record.args = visible(record.getMessage(), _MOST_LOGGED), None
        if record.exc_info:
            text = logging.Formatter().formatException(record.exc_info)
            record.exc_text = "\n".join(f"    {visible(line, _MOST_LOGGED)}" for line in text.split("\n"))
        return True


def _escaped(text: str) -> str:
    found, marks = [], 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in {"Mn", "Me"} else 0
        plain = char.isprintable() and char not in _BLANK and marks <= _MOST_MARKS
        found.append(char if plain else _code(char))
    return "".join(found)


def _code(char: str) -> str:
    """As JSON writes it, so that JSON which is shown stays JSON."""
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1] if ord(char) != 0x20 else char
