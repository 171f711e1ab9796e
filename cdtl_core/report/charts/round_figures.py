"""Figures of the rounds: loss, AUROC, time and bytes per site, and presence."""

from collections.abc import Callable, Mapping, Sequence

from cdtl_core.federation.journal import Journal, Round
from cdtl_core.report.charts.figure import Axis, Chart, Line, Presence, PresenceRow, Table, axis_of
from cdtl_core.report.charts.styles import method_name, site_style
from cdtl_core.results.text import bytes_text, plain, seconds_text

__all__ = ["presence", "presence_of", "round_charts"]

_WORDS = {
    "part": "took part",
    "spent": "privacy budget spent: receives, sends nothing",
    "absent": "not connected",
    "refused": "no usable answer",
    "joined": "joined, takes part from the next round",
    "none": "not a member yet",
}


def round_charts(journal: Journal, sites: Sequence[str]) -> list[Chart]:
    """Return six charts without those that have no data; sites with differential privacy send no such figures."""
    kinds: tuple[tuple[str, str, str, Callable[[float | None], str], float], ...] = (
        ("Validation loss", "val_loss", "log-loss of what was received", plain, 1.0),
        ("Validation AUROC", "val_auroc", "AUROC of what was received", plain, 1.0),
        ("Training loss", "train_loss", "mean loss of the steps", plain, 1.0),
        ("Time", "seconds", "seconds", seconds_text, 1.0),
        ("Sent", "bytes_sent", "MB", bytes_text, 1e6),
        ("Received", "received", "MB, the initial weights left out", bytes_text, 1e6),
    )
    charts = [_chart(journal, sites, *kind) for kind in kinds]
    return [chart for chart in charts if chart is not None]


def presence_of(one: Round, site: str) -> str:
    """Return a site's presence in a round, as a key of the words."""
    for kind, names in (("refused", one.refused), ("absent", one.absent), ("spent", one.spent), ("part", one.sites)):
        if site in names:
            return kind
    return "joined" if site in one.joined else "none"


def presence(journal: Journal) -> Presence:
    """Return each site's presence by round, with reasons for absences."""
    rows, away = [], 0
    missing = journal.ending.missing if journal.ending else {}
    for site in journal.sites:
        kinds = [presence_of(one, site) for one in journal.rounds]
        away += sum(kind in {"absent", "refused"} for kind in kinds)
        cells = [f"{_WORDS[kind]}{_why(one, site)}" for kind, one in zip(kinds, journal.rounds, strict=True)]
        end = missing.get(site, "has its model") if journal.ending else "not ended yet"
        rows.append(PresenceRow(site, kinds, _runs(cells, journal.rounds), end))
    says = f"{len(journal.rounds)} rounds, "
    says += f"{away} times a site was missing or refused." if away else "no site was ever missing."
    return Presence(f"{method_name(journal.method)}: {says}", rows)


def _runs(cells: Sequence[str], rounds: Sequence[Round]) -> str:
    """Join equal neighbours: ``rounds 1 to 4: took part; 5: ...``."""
    parts: list[tuple[int, int, str]] = []
    for cell, one in zip(cells, rounds, strict=True):
        if parts and parts[-1][2] == cell:
            parts[-1] = (parts[-1][0], one.number, cell)
        else:
            parts.append((one.number, one.number, cell))
    return "; ".join(f"{a if a == b else f'{a} to {b}'}: {cell}" for a, b, cell in parts)


def _why(one: Round, site: str) -> str:
    return f" ({one.refused[site]})" if site in one.refused else ""


def _value(name: str, figures: Mapping[str, float | None]) -> float | None:
    if name != "received":
        return figures.get(name)
    received = figures.get("bytes_received")
    return None if received is None else received - (figures.get("initial_weights_bytes") or 0)


def _chart(
    journal: Journal,
    sites: Sequence[str],
    title: str,
    name: str,
    label: str,
    text: Callable[[float | None], str],
    unit: float,
) -> Chart | None:
    found = {
        site: [(one.number, _value(name, one.sites[site])) for one in journal.rounds if site in one.sites]
        for site in sites
    }
    known = {site: [(x, y / unit) for x, y in points if y is not None] for site, points in found.items()}
    values = [y for points in known.values() for _, y in points]
    if not values:
        return None
    rounds = [one.number for one in journal.rounds]
    lines = [
        Line(site, [x for x, _ in points], [y for _, y in points], site_style(site, sites), shape="both")
        for site, points in known.items()
        if points
    ]
    rows = [(str(one.number), *(text(_of(one, site, name)) for site in known)) for one in journal.rounds]
    floor = 0.0 if name in {"bytes_sent", "received", "seconds"} else None
    return Chart(
        title,
        f"{title} of {method_name(journal.method)} by round and site, from {text(min(values) * unit)} to "
        f"{text(max(values) * unit)}.",
        _rounds_axis(rounds),
        axis_of(label, values, floor=floor),
        Table(f"{title}, {method_name(journal.method)}", ("round", *known), rows),
        lines=lines,
    )


def _of(one: Round, site: str, name: str) -> float | None:
    return _value(name, one.sites[site]) if site in one.sites else None


def _rounds_axis(rounds: Sequence[int]) -> Axis:
    first, last = min(rounds), max(rounds)
    step = max(1, round((last - first) / 7))
    ticks = [(float(number), str(number)) for number in range(first, last + 1, step)]
    return Axis("round", first if last > first else first - 1, last if last > first else last + 1, ticks)
