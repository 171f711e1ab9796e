"""Results as text: figures with their intervals, sizes, times, and the model card in Markdown."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Template

from cdtl_core.results.report import Estimate
from cdtl_core.system.foreign import visible
from cdtl_core.system.templates import text_environment

if TYPE_CHECKING:
    from cdtl_core.federation.journal import Ending, Round
    from cdtl_core.results.card import ModelCard

__all__ = [
    "bytes_text",
    "card_markdown",
    "ending_lines",
    "ending_rows",
    "estimate_text",
    "percent",
    "plain",
    "round_lines",
]
__all__ += ["seconds_text", "signed"]

_MINUS = "\u2212"
_NAMES = {
    "auroc": "AUROC",
    "auprc": "average precision",
    "brier": "Brier score (0 is best)",
}


def plain(value: float | None, digits: int = 3) -> str:
    """Return a figure, or a dash if there is none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}".replace("-", _MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign."""
    return "–" if value is None or value != value else f"{value:+.{digits}f}".replace("-", _MINUS)


def estimate_text(found: Estimate | None, sign: bool = False, digits: int = 3) -> str:
    """Return ``0.778 (0.62 to 0.91)``, with a note if there is no interval.

    Args:
        found: The estimate.
        sign: Whether to show a plus sign.
        digits: Digits after the point.
    """
    if found is None or found.value is None:
        return "–"
    number = signed if sign else plain
    if found.low is None or found.high is None:
        return f"{number(found.value, digits)} (no interval)"
    return f"{number(found.value, digits)} ({number(found.low, digits)} to {number(found.high, digits)})"


def plural(unit: str) -> str:
    """Return ``images`` of ``image``."""
    return f"{unit}s"


def percent(value: float | None) -> str:
    """Return a share as whole per cent."""
    return "–" if value is None or value != value else f"{100 * value:.0f} %"


def bytes_text(count: float | None) -> str:
    """Return ``6.7 MB``, ``12 kB``, ``77 bytes``."""
    if count is None:
        return "–"
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            size = count / limit
            return f"{size:.1f} {unit}" if size < 100 else f"{size:.0f} {unit}"
    return f"{count:.0f} bytes"


def seconds_text(seconds: float | None) -> str:
    """Return ``7.1 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {seconds % 60:.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def round_lines(one: "Round", rounds: int = 0) -> list[str]:
    """Return one line about a round, then one for each site that is not in it or has joined.

    Args:
        one: The round.
        rounds: Number of rounds of the run; 0: not known.
    """
    of = f" of {rounds}" if rounds else ""
    sites = ", ".join(f"{visible(site)} {_figure(values.get('val_auroc'))}" for site, values in one.sites.items())
    return [
        f"round {one.number}{of} in {one.seconds or 0:.0f} s; validation AUROC of what was received: {sites or '-'}",
        *(f"without {visible(site)}: {visible(why)}" for site, why in one.refused.items()),
        *(f"without {visible(site)}: not connected" for site in one.absent),
        *(f"without {visible(site)}: its privacy budget is spent" for site in one.spent),
        *(f"{visible(site)} joined and takes part from the next round" for site in one.joined),
    ]


def ending_lines(one: "Ending") -> list[str]:
    """Return one line about the end of a method, then one for each site without a model."""
    sites = ", ".join(
        f"{visible(site)} {_figure(end.get('test_auroc'))} ({visible(end.get('chosen') or 'not told')})"
        for site, end in one.sites.items()
    )
    return [
        f"final evaluation in {one.seconds or 0:.0f} s; test AUROC: {sites or '-'}",
        *(f"{visible(site)} has no model: {visible(why)}" for site, why in one.missing.items()),
    ]


def ending_rows(one: "Ending", patients: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Return a row for each site: AUROC on its test patients, its enrolled patients, and which model it uses.

    Args:
        one: The end of a run.
        patients: Site to its enrolled patients; the coordinator does not know how many of them are for testing.
    """
    rows = []
    for site, end in one.sites.items():
        value, low, high = (end.get(name) for name in ("test_auroc", "test_auroc_low", "test_auroc_high"))
        figure = estimate_text(Estimate(value=value, low=low, high=high)) if value is not None else "not sent"
        rows.append((site, figure, patients.get(site, ""), end.get("chosen") or "not sent"))
    return rows + [(site, "-", patients.get(site, ""), f"none: {why}") for site, why in one.missing.items()]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def card_markdown(card: "ModelCard") -> str:
    """Return the card as Markdown; no label can add markup."""
    return _template().render(card=card, names=_NAMES, splits=("train", "val", "test"))


@functools.cache
def _template() -> Template:
    """Return the template, compiled once per process, since a simulation writes many cards."""
    environment = text_environment(Path(__file__).parent / "templates")
    environment.filters |= {"md": _escaped, "estimate": estimate_text, "percent": percent, "plain": plain}
    return environment.get_template("card.md")


def _escaped(value: Any) -> str:
    """Return text on one line without characters that Markdown or HTML interpret."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#~>])", r"\\\1", text)
