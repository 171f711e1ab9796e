"""The rounds of a run as ``rounds.jsonl`` tells them, or a site's own diary; a line torn by a kill is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdtl_core.system.foreign import parse_json

__all__ = ["Ending", "Journal", "Round", "read_diary", "read_journal", "unprotected_runs"]

Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Round:
    """One round: what each site said, and who was missing why; `matrix` has the rows of `groups`."""

    number: int
    seconds: float | None
    sites: Mapping[str, Figures]
    spent: Sequence[str] = ()
    absent: Sequence[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    joined: Sequence[str] = ()
    groups: Sequence[str] = ()
    matrix: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Ending:
    """How a method ended: what each site told of its model, and why others have none."""

    sites: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Journal:
    """One method's rounds, in order."""

    method: str
    rounds: Sequence[Round]
    ending: Ending | None

    @property
    def sites(self) -> list[str]:
        """Whoever is named in a round, in order of name."""
        found: set[str] = set()
        for one in self.rounds:
            found |= {*one.sites, *one.spent, *one.absent, *one.refused, *one.joined}
        return sorted(found)


def read_journal(path: Path) -> list[Journal]:
    """All methods of a run, in the order in which they were played; empty before its first round."""
    lines = _lines(path)
    methods = list(dict.fromkeys(str(line.get("method", "")) for line in lines))
    return [_journal(method, [line for line in lines if line.get("method", "") == method]) for method in methods]


def read_diary(path: Path, method: str, site: str) -> Journal:
    """What a site noted of its own rounds, as a journal of one."""
    rounds = []
    for line in _lines(path):
        figures = {name: value for name, value in line.items() if name != "round"}
        rounds.append(Round(int(line["round"]), line.get("seconds"), {site: figures}))
    return Journal(method, rounds, None)


def unprotected_runs(home: Path) -> tuple[str, ...]:
    """Runs in which a site sent updates without differential privacy, by its own diaries: those give a loss."""
    diaries = sorted((home / "rounds").glob("*.jsonl"))
    return tuple(path.stem for path in diaries if any("val_loss" in line for line in _lines(path)))


def _journal(method: str, lines: Sequence[Mapping[str, Any]]) -> Journal:
    ends = [line for line in lines if isinstance(line.get("finish"), dict)]
    rounds = [
        Round(
            number=line["round"],
            seconds=line.get("seconds"),
            sites=line["sites"],
            spent=line.get("spent", ()),
            absent=line.get("absent", ()),
            refused=line.get("refused", {}),
            joined=line.get("joined", ()),
            groups=line.get("groups", ()),
            matrix=line.get("matrix", ()),
        )
        for line in lines
        if isinstance(line.get("sites"), dict)
    ]
    return Journal(method, rounds, Ending(ends[-1]["finish"], ends[-1].get("missing", {})) if ends else None)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            value = parse_json(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("round"), int):
            found.append(value)
    return found
