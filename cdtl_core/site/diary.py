"""What a site notes of each round for its own report, ``HOME/rounds/<federation>.jsonl``; nothing of it is sent."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from flwr.app import RecordDict

from cdtl_core.config.schema import inside
from cdtl_core.federation import wire
from cdtl_core.system.durable import append_line, replace_bytes
from cdtl_core.system.foreign import parse_json

__all__ = ["last_round", "note_round"]


def note_round(
    home: Path,
    federation: str,
    *,
    round: int,
    seconds: float,
    received: RecordDict,
    sent: RecordDict,
    metrics: Mapping[str, float],
) -> None:
    """Write a line of a round: seconds of work here, bytes, and its figures (no loss with differential privacy).

    A round that is asked for again replaces its line and those after it.
    """
    path = inside(home, "rounds", f"{federation}.jsonl")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    kept = [line for line in lines if _round_of(line) < round]
    if kept != lines or not path.exists():
        replace_bytes(path, "".join(line + "\n" for line in kept).encode())
    sizes = {"bytes_received": wire.num_bytes(received), "bytes_sent": wire.num_bytes(sent)}
    if initial_weights := wire.initial_weights_bytes(received):
        sizes["initial_weights_bytes"] = initial_weights
    figures = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    append_line(path, json.dumps({"round": round, "seconds": seconds, **sizes, **figures}))


def last_round(home: Path, federation: str, *, before: int) -> int:
    """The last round before `before` that this site noted; 0 without any."""
    path = inside(home, "rounds", f"{federation}.jsonl")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return max((int(number) for line in lines if (number := _round_of(line)) < before), default=0)


def _round_of(line: str) -> float:
    """A line's round; a torn line belongs to none that stays."""
    try:
        return float(parse_json(line)["round"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf
