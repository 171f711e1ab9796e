"""The results of a comparison as a table on the terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import JustifyMethod

from cdtl_core.cli.columns import Column, print_columns
from cdtl_core.cli.screen import open_console
from cdtl_core.results.comparison import Comparison, Difference, Outcomes, Point, Row

__all__ = ["print_comparison"]

_HEADERS: tuple[tuple[str, JustifyMethod], ...] = (
    ("donors", "left"), ("patients", "right"), ("method", "left"), ("AUROC (test patients)", "right"),
    ("gain (95 % interval)", "right"), ("worst receiver", "right"), ("less FedBN", "right"),
    ("less its control", "right"), ("claim", "left"),
)  # fmt: skip


def print_comparison(comparison: Comparison, folder: Path) -> None:
    """Print one row per set of donors, number of patients and method, and notes that explain the figures."""
    console = open_console()
    draws, runs = len(comparison.seeds), comparison.runs
    played = f"{draws} draw{'s' * (draws > 1)} x {comparison.folds} folds" + f" x {runs} runs" * (runs > 1)
    title = f"{comparison.name}: gain over local training in AUROC points, mean over receivers, {played}"
    cells = zip(*(_cells(row, _tested(comparison.points, row)) for row in comparison.rows), strict=True)
    columns = [Column(header, of, justify) for (header, justify), of in zip(_HEADERS, cells, strict=True)]
    sections = [row.method == comparison.methods[-1] for row in comparison.rows]
    print_columns(console, title, columns, keys=3, sections=sections)
    for line in _notes(comparison, folder):
        console.print(line, soft_wrap=True)


def _tested(points: Sequence[Point], row: Row) -> int:
    """Return the number of test patients of all receivers of a row."""
    here = [one for one in points if (one.donors, one.patients) == (row.donors, row.patients)]
    return sum(one.tested_patients for one in here if one.target in row.receivers)


def _cells(row: Row, tested: int) -> list[str]:
    least = None if row.worst is None else row.gains[row.worst]
    return [
        row.donors,
        str(row.patients),
        "local" if row.method == "alone" else row.method,
        "-" if row.auroc is None else f"{row.auroc:.3f} ({tested})",
        _points(row.gain),
        "" if least is None else f"{100 * least:+.1f} {row.worst}",
        _points(row.less_fedbn),
        _points(row.less_control),
        (row.claim or "").replace("alone", "local"),
    ]


def _points(found: Difference | None) -> str:
    if found is None or found.value is None:
        return "" if found is None else "-"
    if found.low is None or found.high is None:
        return f"{100 * found.value:+.1f} (no interval)"
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _notes(comparison: Comparison, folder: Path) -> Iterator[str]:
    if any(point.synthetic for point in comparison.points):
        yield "Images are SYNTHETIC phantoms: these figures have no medical meaning."
    yield from _of_outcomes(comparison.outcomes)
    yield from _of_claims(comparison)
    yield from _of_calibration(comparison.points)
    yield from (f"left out: {_where(one.target, one.patients, one.donors)}: {one.why}" for one in comparison.left_out)
    if any(row.gain is not None and row.gain.low is None for row in comparison.rows):
        yield "no interval: a receiver has fewer than 10 patients tested; such a figure is an anecdote."
    yield (
        f"Every receiver's figures are in {folder}/compare.json; curves.png, curves.svg and cells/ are in the "
        "same folder."
    )


def _of_outcomes(found: Outcomes | None) -> Iterator[str]:
    if found is not None:
        yield f"First outcome, cdtl less fedbn at {found.patients} patients over all receivers and sets of donors: " + (
            f"{_points(found.cdtl_less_fedbn)} points."
        )
        least = f"{100 * found.worst:+.1f} points ({found.worst_at})"
        yield f"Second outcome, least gain of cdtl over local training: {least}."


def _of_claims(comparison: Comparison) -> Iterator[str]:
    claimed = [row for row in comparison.rows if row.claim is not None]
    if not claimed:
        return
    yield (
        "gain: above local training and above the method's own control (donors with shuffled labels), by the interval "
        f"and after Holm's correction over {comparison.compared} comparisons."
    )
    for claim, words in (
        ("no evidence of gain", "No gain is shown for"),
        ("worse than alone", "WORSE than local training:"),
    ):
        for method in dict.fromkeys(row.method for row in claimed):
            rows = [row for row in claimed if (row.method, row.claim) == (method, claim)]
            if rows:
                yield f"{words} {method}: {_places(rows)}."
    open_claims = [row.method for row in claimed if row.less_control is None]
    if open_claims:
        names = ", ".join(f"{name}:shuffled" for name in dict.fromkeys(open_claims))
        yield f"No gain can be claimed without the control: add {names} to --methods."


def _places(rows: Sequence[Row]) -> str:
    sets = dict.fromkeys(row.donors for row in rows)
    return "; ".join(
        f"donors {donors} at {', '.join(str(row.patients) for row in rows if row.donors == donors)} patients"
        for donors in sets
    )


def _of_calibration(points: Sequence[Point]) -> Iterator[str]:
    """Compare the probabilities of `cdtl` with those of the receiver's own model: the largest loss and its place."""
    for what, field in (("log-loss", "log_loss_minus_alone"), ("calibration error", "calibration_error_minus_alone")):
        found = [(point, getattr(point.results["cdtl"], field)) for point in points if "cdtl" in point.results]
        if not found:
            continue
        most, less = max(found, key=lambda one: one[1].value)
        worse = [_at(point) for point, less in found if less.low is not None and less.low > 0]
        shown = f"beyond chance at {'; '.join(worse)}" if worse else "nowhere above 0 beyond chance"
        yield f"The {what} of cdtl less that of local training is at most {less.value:+.3f} ({_at(most)}), {shown}."


def _at(point: Point) -> str:
    return _where(point.target, point.patients, point.donors)


def _where(target: str, patients: object, donors: str | None) -> str:
    return f"{target}, {patients} patients" + (f", donors {donors}" if donors else "")
