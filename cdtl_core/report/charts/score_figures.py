"""Figures of scores: ROC, precision-recall, reliability, confusion matrix and histograms."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cdtl_core.metrics.bands import Curve, precision_recall, reliability, roc
from cdtl_core.metrics.operating import Confusion, choose_threshold, confusion_at
from cdtl_core.metrics.summary import expected_calibration_error
from cdtl_core.report.charts.figure import Axis, Bar, Chart, Heat, Line, Rule, Shape, Table, ticks_of
from cdtl_core.report.charts.styles import method_name, method_style
from cdtl_core.results.report import Estimate
from cdtl_core.results.scores import Scores
from cdtl_core.results.text import estimate_text, percent, plain, plural

__all__ = ["Operation", "confusion_heat", "histogram", "operation_of", "pr_chart", "reliability_chart", "roc_chart"]

_UNIT = [(value / 5, f"{value / 5:.1f}") for value in range(6)]
_TENTHS = np.linspace(0.0, 1.0, 21)


def roc_chart(site: str, found: Mapping[str, Scores], main: str, seed: int) -> Chart | None:
    """Return sensitivity over 1 - specificity of each method's test scores, with a band for the main one.

    Args:
        site: The site's name.
        found: Scores by method.
        main: The main method.
        seed: Seed of the bootstrap.
    """
    x, y = Axis("1 − specificity", 0, 1, _UNIT), Axis("sensitivity", 0, 1, _UNIT)
    chance = (Rule((0, 0), (1, 1), "chance"),)
    curves = {method: roc(one.positive, one.used, one.patients, seed=seed) for method, one in found.items()}
    of = f"ROC of {site}"
    return _curves(of, ("1 − specificity", "sensitivity"), curves, main, (x, y), chance, unit=found[main].unit)


def pr_chart(site: str, found: Mapping[str, Scores], main: str, seed: int) -> Chart | None:
    """Return precision over sensitivity; the straight line is chance, the share of positives.

    Args:
        site: The site's name.
        found: Scores by method.
        main: The main method.
        seed: Seed of the bootstrap.
    """
    x, y = Axis("sensitivity (recall)", 0, 1, _UNIT), Axis("precision", 0, 1, _UNIT)
    share = float(found[main].positive.mean())
    chance = (Rule((0, share), (1, share), "chance"),)
    curves = {
        method: precision_recall(one.positive, one.used, one.patients, seed=seed) for method, one in found.items()
    }
    return _curves(
        f"Precision and recall of {site}",
        ("sensitivity", "precision"),
        curves,
        main,
        (x, y),
        chance,
        "steps",
        unit=found[main].unit,
    )


def reliability_chart(site: str, scores: Scores, style: int) -> Chart:
    """Return the share of positives over the predicted probability; the diagonal is perfect calibration.

    Args:
        site: The site's name.
        scores: Test scores.
        style: Number of the line style.
    """
    bins = reliability(scores.positive, scores.probability, scores.patients)
    kind = "calibrated" if scores.is_calibrated else "raw, not calibrated"
    line = Line(
        f"{kind} probabilities",
        [one.mean for one in bins],
        [one.observed.value for one in bins],
        style,
        shape="points",
        band_x=[one.mean for one in bins],
        band=([one.observed.low for one in bins], [one.observed.high for one in bins]),
    )
    rows = [
        (
            f"{one.low:.1f} to {one.high:.1f}",
            plain(one.mean),
            estimate_text(Estimate.of(one.observed)),
            str(one.images),
            str(one.patients),
        )
        for one in bins
    ]
    error, count = expected_calibration_error(scores.positive, scores.probability), len(scores.images)
    return Chart(
        f"Reliability of {site}",
        f"{kind.capitalize()} probabilities; expected calibration error {plain(error)} over {count} "
        f"{plural(scores.unit)}.",
        Axis("predicted probability", 0, 1, _UNIT),
        Axis("share that is positive", 0, 1, _UNIT),
        Table(
            f"Reliability of {site}",
            ("tenth", "mean probability", "share positive (95 %)", plural(scores.unit), "patients"),
            rows,
        ),
        lines=(line,),
        rules=(Rule((0, 0), (1, 1), "perfect"),),
    )


@dataclass(frozen=True)
class Operation:
    """The operating point of a site; `why` says how the threshold was chosen, `unit` what was called."""

    confusion: Confusion
    why: str
    unit: str = "image"


def operation_of(test: Scores, val: Scores | None) -> Operation:
    """Return the operating point, chosen on validation patients only; 0.5 if they allow no choice."""
    threshold = choose_threshold(val.positive, val.probability) if val is not None else None
    if threshold is not None and val is not None:
        why = (
            f"chosen on {val.num_patients} validation patients (largest sensitivity + specificity), not on test "
            "patients"
        )
    else:
        missing = "no validation scores were kept" if val is None else "the validation patients lack a class"
        threshold, why = 0.5, f"one half, since {missing}"
    return Operation(confusion_at(test.positive, test.probability, test.patients, threshold), why, test.unit)


def confusion_heat(site: str, found: Operation, positive: str) -> Heat:
    """Return the confusion matrix with the share of each truth.

    Args:
        site: The site's name.
        found: Counts.
        positive: Name of the positive label.
    """
    c = found.confusion
    counts = ((c.hits, c.misses), (c.alarms, c.rejects))
    wholes = (c.hits + c.misses, c.alarms + c.rejects)
    shares = [[count / whole if whole else None for count in row] for row, whole in zip(counts, wholes, strict=True)]
    texts = [
        [f"{count} ({percent(share)})" for count, share in zip(row, part, strict=True)]
        for row, part in zip(counts, shares, strict=True)
    ]
    return Heat(
        f"Confusion matrix of {site}, test {plural(found.unit)}",
        f"At threshold {plain(c.threshold)} sensitivity is {_share(c.sensitivity.interval.value)} and specificity "
        f"{_share(c.specificity.interval.value)}.",
        (f"{positive}", f"not {positive}"),
        (f"called {positive}", f"called not {positive}"),
        shares,
        texts,
        corner="truth",
    )


def histogram(site: str, scores: Scores, positive: str, threshold: float) -> Chart:
    """Return how many test units have which probability: positive ones upwards, the others downwards.

    Args:
        site: The site's name.
        scores: Test scores.
        positive: Name of the positive label.
        threshold: The operating point.
    """
    up, down = (np.histogram(scores.probability[mask], _TENTHS)[0] for mask in (scores.positive, ~scores.positive))
    most = int(max(up.max(), down.max(), 1))
    edges = list(pairwise(_TENTHS))
    bars = [Bar(a, b, float(n), 2) for (a, b), n in zip(edges, up, strict=True) if n]
    bars += [Bar(a, b, -float(n), 1) for (a, b), n in zip(edges, down, strict=True) if n]
    ticks = [(value, text.replace("−", "")) for value, text in ticks_of(-most, most) if value == int(value)]
    rows = [(f"{a:.2f} to {b:.2f}", str(n), str(m)) for (a, b), n, m in zip(edges, up, down, strict=True) if n or m]
    kind = "calibrated" if scores.is_calibrated else "raw"
    return Chart(
        f"Scores of {site}",
        f"Test {plural(scores.unit)} by their {kind} probability of {positive}: positive ones above the line, the "
        "others below it.",
        Axis(f"probability of {positive} ({kind})", 0, 1, _UNIT),
        Axis(plural(scores.unit), min(ticks[0][0], -most), max(ticks[-1][0], most), ticks),
        Table(f"Scores of {site}", ("probability", f"{positive}", f"not {positive}"), rows),
        bars=bars,
        rules=(Rule((threshold, -most), (threshold, most), "operating point"),),
        legend=((2, f"{positive} (upwards)"), (1, f"not {positive} (downwards)")),
    )


def _share(value: float) -> str:
    return plain(value, 2)


def _curves(
    title: str,
    headers: tuple[str, str],
    curves: Mapping[str, Curve | None],
    main: str,
    axes: tuple[Axis, Axis],
    rules: tuple[Rule, ...],
    shape: Shape = "line",
    *,
    unit: str,
) -> Chart | None:
    known = {method: curve for method, curve in curves.items() if curve is not None}
    if main not in known:
        return None
    lines = [
        Line(
            method_name(method),
            list(curve.x),
            list(curve.y),
            method_style(method),
            shape=shape,
            band_x=list(curve.grid) if method == main else (),
            band=(list(curve.band[0]), list(curve.band[1])) if method == main and curve.band else None,
        )
        for method, curve in known.items()
    ]
    band = known[main].band
    shown = f"with the pointwise 95 % band of {method_name(main)}" if band else "without a band: too few test patients"
    return Chart(
        title,
        f"{headers[1].capitalize()} over {headers[0]} on test {plural(unit)}, {shown}.",
        *axes,
        Table(title, (headers[0], *(_header(method, main, band is not None) for method in known)), _rows(known, main)),
        lines=lines,
        rules=rules,
    )


def _header(method: str, main: str, has_band: bool) -> str:
    return f"{method_name(method)} (95 %)" if method == main and has_band else method_name(method)


def _rows(curves: Mapping[str, Curve], main: str) -> list[tuple[str, ...]]:
    """Return every tenth of the horizontal axis."""
    rows = []
    for place in range(0, 51, 5):
        cells = []
        for method, curve in curves.items():
            text = plain(float(curve.at[place]), 2)
            if method == main and curve.band:
                text += f" ({plain(float(curve.band[0][place]), 2)} to {plain(float(curve.band[1][place]), 2)})"
            cells.append(text)
        rows.append((f"{curves[main].grid[place]:.1f}", *cells))
    return rows
