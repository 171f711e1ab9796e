"""The journal of a run, ``rounds.jsonl``, and a site's diary of its own rounds: written and read here.

A line is one round, or the end of a method, and is on the disk before the next round begins. A resumed run removes the
lines after its checkpoint; a line torn by a kill is ignored. A diary stays at the site.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtl_core.config.folders import SiteFolder
from cdtl_core.system.durable import append_line, replace_bytes
from cdtl_core.system.foreign import parse_json

if TYPE_CHECKING:
    from cdtl_core.federation.round import RoundReport  # needs torch, which services and status do not load

__all__ = ["Diary", "Ending", "Journal", "JournalFile", "Round", "Traffic", "read_diary", "read_entries"]
__all__ += ["read_journal", "unprotected_runs"]

Figures = Mapping[str, float | None]
_RENAMED = {"theta0_bytes": "initial_weights_bytes"}
"""Names of fields in lines written before 0.2."""


@dataclass(frozen=True)
class Traffic:
    """Traffic of one site in one exchange of messages.

    Attributes:
        bytes_received: Received by the site: size of the message, including the initial weights.
        initial_weights_bytes: The part for the initial weights.
        bytes_sent: Sent by the site: size of its reply.
        seconds: From the last request to the answer, with the work of other sites if they take turns.
    """

    bytes_received: int = 0
    initial_weights_bytes: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Round:
    """One round in the journal.

    Attributes:
        number: From 1.
        seconds: Its duration; None if the line has none.
        sites: Site to its figures: metrics, bytes, seconds.
        spent: Sites whose privacy budget is used up.
        absent: Sites that did not answer.
        refused: Site to why none of its updates counts.
        joined: Sites that take part from the next round on.
        matrix: The blend matrix; its rows are `groups`.
    """

    method: str
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
    """End of a method: figures of each site's model, and why others have none."""

    method: str
    number: int
    seconds: float | None
    sites: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Journal:
    """One method's rounds, in order, and its end."""

    method: str
    rounds: Sequence[Round]
    ending: Ending | None = None

    @property
    def sites(self) -> list[str]:
        """All sites in any round, in the order of their names."""
        found: set[str] = set()
        for one in self.rounds:
            found |= {*one.sites, *one.spent, *one.absent, *one.refused, *one.joined}
        return sorted(found)


class JournalFile:
    """The lines of one method in a run's ``rounds.jsonl``; lines of other methods stay unchanged."""

    def __init__(self, path: Path, method: str) -> None:
        self._path, self._method = path, method

    def rewind(self, round: int) -> None:
        """Remove this method's lines after `round`, and a line torn by a kill."""
        if self._path.exists():
            kept = [line for line in _texts(self._path) if self._stays(line, round)]
            replace_bytes(self._path, "".join(line + "\n" for line in kept).encode())

    def add_round(
        self, report: "RoundReport", traffic: Mapping[str, Traffic], joined: Sequence[str], seconds: float
    ) -> None:
        """Write one round.

        Args:
            report: Report of the round.
            traffic: Traffic of each site that was asked.
            joined: Sites that take part from the next round on.
            seconds: Duration.
        """
        sites = {site: {**values, **_sizes(traffic[site], values)} for site, values in report.metrics.items()}
        self._add(
            {
                "round": report.round,
                "sites": sites,
                "spent": list(report.spent),
                "absent": list(report.absent),
                "refused": dict(report.refused),
                "joined": list(joined),
                "groups": list(report.groups),
                "matrix": report.matrix.round(12).tolist(),
                "seconds": round(seconds, 3),
            }
        )

    def add_ending(
        self,
        number: int,
        finals: Mapping[str, tuple[Traffic, Mapping[str, float], str]],
        missing: Mapping[str, str],
        seconds: float,
    ) -> None:
        """Write the end of the method.

        Args:
            number: One more than the last round.
            finals: Site to its traffic, the figures of its model, and which model it uses.
            missing: Site to why it has no model.
            seconds: Duration.
        """
        sites = {
            site: {**figures, "chosen": chosen, **_sizes(traffic, figures)}
            for site, (traffic, figures, chosen) in sorted(finals.items())
        }
        self._add({"round": number, "finish": sites, "missing": dict(missing), "seconds": round(seconds, 3)})

    def finished(self) -> bool:
        """Whether the method has ended, which is written after every site has its model."""
        return any(isinstance(one, Ending) and one.method == self._method for one in read_entries(self._path))

    def _add(self, line: dict[str, Any]) -> None:
        append_line(self._path, json.dumps(_plain({"method": self._method, **line})))

    def _stays(self, line: str, round: int) -> bool:
        value = _read(line)
        return value is not None and (value.get("method") != self._method or value.get("round", 0) <= round)


class Diary:
    """A site's own notes of its rounds in one federation."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, round: int, traffic: Traffic, figures: Mapping[str, float], *, ends: bool = False) -> None:
        """Write the line of a round; it replaces the lines of this round and of later ones.

        Args:
            round: From 1.
            traffic: Its seconds are the site's own work.
            figures: Figures of the round; no loss with differential privacy.
            ends: Whether it is the end of the run, after the last round.
        """
        lines = _texts(self._path)
        kept = [line for line in lines if _round_of(line) < round]
        if kept != lines or not self._path.exists():
            replace_bytes(self._path, "".join(line + "\n" for line in kept).encode())
        sizes = {"seconds": traffic.seconds, **_sizes(traffic, {})}
        kind = {"ends": True} if ends else {}
        append_line(self._path, json.dumps(_plain({"round": round, **kind, **sizes, **figures})))

    def last_round(self, *, before: int) -> int:
        """Return the last round before `before` that the site noted; 0 without any."""
        return max((int(number) for line in _texts(self._path) if (number := _round_of(line)) < before), default=0)


def read_entries(path: Path) -> Iterator[Round | Ending]:
    """Return rounds and endings of a journal in the order of its lines; other lines are ignored."""
    for line in _lines(path):
        told = {"method": str(line.get("method", "")), "number": line["round"], "seconds": line.get("seconds")}
        if isinstance(line.get("finish"), dict):
            yield Ending(**told, sites=_figures(line["finish"]), missing=line.get("missing", {}))
        elif isinstance(line.get("sites"), dict):
            names = ("spent", "absent", "refused", "joined", "groups", "matrix")
            yield Round(**told, sites=_figures(line["sites"]), **{name: line[name] for name in names if name in line})


def read_journal(path: Path) -> list[Journal]:
    """Return all methods of a run, in their order; empty before the first round."""
    entries = list(read_entries(path))
    journals = []
    for method in dict.fromkeys(one.method for one in entries):
        rounds = [one for one in entries if isinstance(one, Round) and one.method == method]
        endings = [one for one in entries if isinstance(one, Ending) and one.method == method]
        journals.append(Journal(method, rounds, endings[-1] if endings else None))
    return journals


def read_diary(path: Path, method: str, site: str) -> Journal:
    """Return a site's diary as a journal of one site.

    Args:
        path: The diary.
        method: Name of the method.
        site: Name of the site.
    """
    rounds, ending = [], None
    for line in _lines(path):
        figures = _figures({site: {name: value for name, value in line.items() if name not in {"round", "ends"}}})
        if line.get("ends"):
            ending = Ending(method, int(line["round"]), line.get("seconds"), figures)
        else:
            rounds.append(Round(method, int(line["round"]), line.get("seconds"), figures))
    return Journal(method, rounds, ending)


def unprotected_runs(site: SiteFolder) -> tuple[str, ...]:
    """Return federations to which the site sent updates without differential privacy: only they have a loss."""
    return tuple(name for name, path in site.diaries() if any("val_loss" in line for line in _lines(path)))


def _sizes(traffic: Traffic, figures: Mapping[str, float]) -> dict[str, int | float]:
    """Return bytes, and seconds until the answer; no seconds for a site that sends no figures of its patients."""
    sizes: dict[str, int | float] = {"bytes_received": traffic.bytes_received, "bytes_sent": traffic.bytes_sent}
    if figures:
        sizes["seconds"] = round(traffic.seconds, 3)
    if traffic.initial_weights_bytes:
        sizes["initial_weights_bytes"] = traffic.initial_weights_bytes
    return sizes


def _figures(sites: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures by site under the current names."""
    return {
        site: {_RENAMED.get(name, name): value for name, value in found.items()} if isinstance(found, dict) else found
        for site, found in sites.items()
    }


def _texts(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield lines that hold an object with a round."""
    values = (_read(text) for text in _texts(path))
    yield from (value for value in values if value is not None and isinstance(value.get("round"), int))


def _read(line: str) -> dict[str, Any] | None:
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _round_of(line: str) -> float:
    """Return the round of a line; infinity for a torn line."""
    value = _read(line)
    try:
        return float(value["round"]) if value else math.inf
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf


def _plain(value: Any) -> Any:
    """Return null for NaN, which JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
