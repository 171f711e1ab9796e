"""Text and JSON from outside: safe to parse, and safe to show on a terminal.

Text from a coordinator, another site, an image or a manifest can hold escapes that hide or forge lines on a terminal.
`visible` shows one value on one line. `shown` shows a text of ours and keeps its lines.
"""

import json
import logging
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["get_logger", "is_plain", "log_to_stderr", "parse_json", "read_json", "shown", "visible"]

_MOST = 300  # characters of one outside value: a longer one would push the rest off the screen
_MOST_LOGGED = 4000  # characters of one line of a log
_MOST_MARKS = 3  # accents on one letter; no script needs more, and a stack of them covers the lines around it
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(code) for code in range(0xFE00, 0xFE10)}
"""Characters that count as printable but show nothing."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is not JSON, not UTF-8, or nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Mapping[str, Any]:
    """Return a JSON object that another process writes; empty if the file does not exist yet."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def is_plain(text: str) -> bool:
    """Whether a text can be printed unchanged: no control, format or invisible character, no stack of accents."""
    return _escaped(text) == text


def visible(value: object, most: int = _MOST) -> str:
    r"""Return an outside value on one line, with line breaks, escapes and invisible characters as ``\u001b``.

    Args:
        value: Anything; its `str` is shown.
        most: Characters that are shown; the number of those left out follows.
    """
    text = str(value)
    cut = f"... ({len(text) - most} more characters)" if len(text) > most else ""
    return _escaped(text[:most]) + cut


def shown(text: str) -> str:
    """Return a text of several lines of our own, without anything else that moves the cursor or hides text."""
    return "\n".join(_escaped(line) for line in text.split("\n"))


def get_logger(name: str) -> logging.Logger:
    """Return a logger whose records are one visible line each, with any handler.

    Lines of a traceback follow indented, so that none of them can pass for a record.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(one, _OneLine) for one in logger.filters):
        logger.addFilter(_OneLine())
    return logger


def log_to_stderr(form: str) -> None:
    """Log to stderr in this form, including records of libraries, each as one visible line."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_OneLine())
    logging.getLogger("httpx").setLevel(logging.WARNING)


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's text by text that is safe to write; every record passes."""
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
    """Return the JSON escape, so that shown JSON stays valid JSON."""
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1] if ord(char) != 0x20 else char
