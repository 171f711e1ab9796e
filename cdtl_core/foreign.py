"""JSON that comes from elsewhere: whatever it holds, reading it gives a value or a `ValueError`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["parse_json", "read_json"]


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
