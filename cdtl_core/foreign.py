"""JSON that comes from elsewhere: whatever it holds, reading it gives a value or a `ValueError`."""

import json
from typing import Any

__all__ = ["parse_json"]


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: It is no JSON, no UTF-8, or nested so deeply that Python could not go through it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
