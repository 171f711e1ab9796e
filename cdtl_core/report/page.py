"""The report as a page: sections of blocks, rendered into one HTML file that loads nothing."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal

from cdtl_core.report.charts.figure import Figure, Presence
from cdtl_core.report.charts.geometry import draw_chart, draw_forest, mark
from cdtl_core.system.templates import page_environment

__all__ = ["SECTIONS", "Block", "Fold", "Grid", "Headline", "Headlines", "Note", "Page", "Section", "headlines_of"]
__all__ += ["page_html"]

SECTIONS = {
    "summary": "Results",
    "discrimination": "ROC and precision-recall",
    "calibration": "Calibration",
    "operating": "Operating point",
    "rounds": "Rounds",
    "blend": "Transfer between modalities",
    "privacy": "Privacy",
    "egress": "Egress",
    "absence": "Attendance",
    "cohorts": "Cohorts",
    "examples": "Example images",
    "run": "The run",
}
"""All sections of a report in this order, id to title."""

_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Headline:
    """A site's result in a sentence; `tone` and `mark` repeat its meaning."""

    site: str
    about: str
    tone: Literal["gain", "none", "loss", "done", "open"]
    sentence: str
    more: Sequence[str] = ()


@dataclass(frozen=True)
class Headlines:
    """All sites' results."""

    items: Sequence[Headline]
    kind: ClassVar[str] = "headlines"


@dataclass(frozen=True)
class Note:
    """A paragraph; a `strong` one is highlighted."""

    text: str
    strong: bool = False
    kind: ClassVar[str] = "note"


@dataclass(frozen=True)
class Grid:
    """Figures side by side under a heading, as many as the width allows; `beside`: one, and a table that is wide."""

    items: Sequence[Figure]
    heading: str = ""
    wide: bool = False
    beside: bool = False
    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class Fold:
    """Blocks that are hidden until opened."""

    summary: str
    blocks: Sequence["Block"]
    kind: ClassVar[str] = "fold"


Block = Headlines | Note | Grid | Fold | Figure | Presence


@dataclass(frozen=True)
class Section:
    """One of `SECTIONS`; an empty one says in `why` what is missing."""

    id: str
    blocks: Sequence[Block]
    why: str = ""
    lead: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: Its heading.
        about: A line below it.
        status: How far the run is, a sentence.
        warning: What a reader must know first, or empty.
        sections: All of `SECTIONS`.
        keep: Where the page may be shared, in a sentence.
        live: Whether it is served during the run and reloads itself.
    """

    title: str
    about: str
    status: str
    warning: str
    sections: Sequence[Section]
    keep: str
    live: bool = False


def headlines_of(page: Page) -> list[str]:
    """Return the run's status and each site's sentences, for a terminal."""
    found = [block for section in page.sections for block in section.blocks if isinstance(block, Headlines)]
    told = ["\n  ".join([f"{item.site}: {item.sentence}", *item.more]) for one in found for item in one.items]
    return [page.status, *told]


def page_html(page: Page) -> str:
    """Return the self-contained page; only a live page has a script, which connects only to its own server."""
    style = _read("report.css")
    script = _read("report.js") if page.live else ""
    environment = page_environment(_FOLDER)
    environment.globals |= {"draw_chart": draw_chart, "draw_forest": draw_forest, "mark": mark}
    return environment.get_template("report.html").render(
        page=page, groups=_groups(page), titles=SECTIONS, style=style, script=script, policy=_policy(style, script)
    )


def _groups(page: Page) -> list[list[Section]]:
    """Return the sections in order; empty neighbours with the same reason are together, to share one line."""
    return [list(group) for _, group in groupby(page.sections, lambda one: (one.id if one.blocks else "", one.why))]


def _policy(style: str, script: str) -> str:
    """Return the content security policy: show the page, and nothing that is not in it."""
    ask = f"script-src {_hash(script)}; connect-src 'self'; " if script else ""
    return f"default-src 'none'; img-src data:; style-src {_hash(style)}; {ask}base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    """Return a file that becomes part of the page, without its comments."""
    return re.sub(r"/\*.*?\*/\n?", "", (_FOLDER / name).read_text(encoding="utf-8"), flags=re.DOTALL)
