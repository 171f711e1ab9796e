"""What a run writes of itself: one JSON line a round, flushed before the next begins."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdtl_core.system.durable import append_line, replace_bytes
from cdtl_core.system.foreign import parse_json

if TYPE_CHECKING:
    from cdtl_core.coordinator.exchange import Reply
    from cdtl_core.coordinator.strategy import Finish, Round

__all__ = ["Journal"]


class Journal:
    """``rounds.jsonl`` of a run directory, for one method."""

    def __init__(self, folder: Path, method: str) -> None:
        self._path = folder / "rounds.jsonl"
        self._method = method

    def rewind(self, round: int) -> None:
        """Drop this method's lines after `round`, and a line torn by a kill."""
        if not self._path.exists():
            return
        kept = [
            line
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines()
            if self._stays(line, round)
        ]
        replace_bytes(self._path, "".join(line + "\n" for line in kept).encode())

    def add_round(self, played: "Round", seconds: float) -> None:
        """Write one round: who took part, who did not and why, who joined for the next one."""
        result = played.report
        sites = {site: {**values, **_sizes(played.replies[site], values)} for site, values in result.metrics.items()}
        self._add(
            {
                "round": result.round,
                "sites": sites,
                "spent": list(result.spent),
                "absent": list(result.absent),
                "refused": dict(result.refused),
                "joined": list(played.joined),
                "groups": list(result.groups),
                "matrix": np.round(result.matrix, 12).tolist(),
                "seconds": _milli(seconds),
            }
        )

    def add_finish(self, round: int, finish: "Finish", seconds: float) -> None:
        """Write the end of the run."""
        sites = {
            site: {**final.metrics, "chosen": final.chosen, **_sizes(reply, final.metrics)}
            for site, (reply, final) in sorted(finish.finals.items())
        }
        missing = dict(finish.missing)
        self._add({"round": round, "finish": sites, "missing": missing, "seconds": _milli(seconds)})

    def finished(self) -> bool:
        """Whether this method's run has ended: its last line says so after every site has kept its model."""
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines() if self._path.exists() else []
        own = [value for line in lines if (value := _read(line)) and value.get("method") == self._method]
        return any("finish" in value for value in own)

    def _add(self, line: dict[str, Any]) -> None:
        append_line(self._path, json.dumps(_plain({"method": self._method, **line})))

    def _stays(self, line: str, round: int) -> bool:
        value = _read(line)
        return value is not None and (value.get("method") != self._method or value.get("round", 0) <= round)


def _sizes(reply: "Reply", figures: Mapping[str, float]) -> dict[str, int | float]:
    """Bytes, and seconds until the answer; of a site that gives no figures of its patients no seconds are kept."""
    sizes: dict[str, int | float] = {"bytes_received": reply.bytes_received, "bytes_sent": reply.bytes_sent}
    if figures:
        sizes["seconds"] = _milli(reply.seconds)
    return {**sizes, "initial_weights_bytes": reply.initial_weights_bytes} if reply.initial_weights_bytes else sizes


def _milli(seconds: float) -> float:
    return round(seconds, 3)


def _read(line: str) -> dict[str, Any] | None:
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _plain(value: Any) -> Any:
    """NaN is no JSON: written as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
