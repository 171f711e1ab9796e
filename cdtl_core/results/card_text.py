"""A model card in Markdown, for a person."""

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Template

from cdtl_core.results.numbers import estimate_text, percent, plain
from cdtl_core.system.templates import text_environment

if TYPE_CHECKING:
    from cdtl_core.results.card import ModelCard

__all__ = ["card_markdown"]

_NAMES = {
    "auroc": "AUROC",
    "auprc": "average precision",
    "brier": "Brier score (0 is best)",
}


def card_markdown(card: "ModelCard") -> str:
    """The card as Markdown; whatever a label is called, it makes no markup."""
    return _template().render(card=card, names=_NAMES, splits=("train", "val", "test"))


@functools.cache
def _template() -> Template:
    """Compiled once in a process: a simulation writes many cards."""
    environment = text_environment(Path(__file__).parent / "templates")
    environment.filters |= {"md": _escaped, "estimate": estimate_text, "percent": percent, "plain": plain}
    return environment.get_template("card.md")


def _escaped(value: Any) -> str:
    """Text in which no character means anything to Markdown or HTML, on one line."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#~>])", r"\\\1", text)
