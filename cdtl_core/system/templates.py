"""Jinja environments of all templates: an undefined name is an error, and every value is escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cdtl_core.system.foreign import shown

__all__ = ["page_environment", "text_environment"]


def page_environment(folder: Path) -> Environment:
    """Return the environment for the HTML templates in `folder`; every value is escaped."""
    return _environment(folder, autoescape=True)


def text_environment(folder: Path) -> Environment:
    """Return the environment for the text templates in `folder`; every value is made visible."""
    return _environment(folder, autoescape=False)


def _shown(value: Any) -> Any:
    """Return a value as it can be shown; text that a template marked as safe is our own."""
    return shown(value) if type(value) is str else value


def _environment(folder: Path, *, autoescape: bool) -> Environment:
    return Environment(
        loader=FileSystemLoader(folder),
        finalize=_shown,
        autoescape=autoescape,  # noqa: S701 - each value of a text template goes through its own filter
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
