"""Commented templates of configuration files, with every setting and its default."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import tomli_w

from cdtl_core.config.reference import Table, table_of_settings, toml_value
from cdtl_core.config.run import RunConfig
from cdtl_core.config.settings import read_toml
from cdtl_core.config.simulation import SimulationConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.errors import ConfigError, did_you_mean
from cdtl_core.system.shipped import find_config, shipped_names

__all__ = ["about_shipped", "template"]

_WIDTH = 100
_HEADS: Mapping[str, str] = {
    "study": "A study: what all sites agree on. Between hospitals: cdtl server run DIR {name}. On one machine: "
    "describe the sites at the end of the file, then cdtl simulate {name}",
    "site": "A hospital's own settings, site.toml in the site's folder. They stay there.",
}
_EVERY = (
    "Every setting is here. A line that begins with # and a key holds its default, or an example where there is none: "
    "remove the # to change it. Paths are relative to this file. Check the file: cdtl config check {name}"
)
_STUDY: Mapping[str, Any] = {
    "name": "study",
    "sites": [
        {"site": "north", "modality": "ultrasound", "data": {"root": "north", "manifest": "manifest.csv"}},
        {"site": "south", "modality": "mammography",
         "data": {"root": "south", "manifest": "manifest.csv", "label_map": {"cancer": "malignant"}}},
    ],
}  # fmt: skip
_SITE: Mapping[str, Any] = {"site": "north", "modality": "ultrasound", "data": {"manifest": "manifest.csv"}}


def template(kind: str, name: str) -> str:
    """Return the text of a configuration file.

    Args:
        kind: ``study``: a run's settings. ``site``: a hospital's. The name of a shipped configuration: its settings.
        name: Name of the file, for the commands in it.

    Raises:
        ConfigError: There is no template of this kind.
    """
    known = (*_HEADS, *shipped_names())
    if kind not in known:
        raise ConfigError(f"the template '{kind}' is unknown{did_you_mean(kind, known)} one of {', '.join(known)}.")
    head = _HEADS[kind] if kind in _HEADS else f"{about_shipped(kind)} Play it: cdtl simulate {{name}}"
    lines = [*_comment(head.format(name=name)), *_comment(_EVERY.format(name=name)), ""]
    if kind == "site":
        return "\n".join([*lines, *_written(table_of_settings(SiteConfig), _SITE)])
    given = _STUDY if kind == "study" else read_toml(find_config(Path(kind)))
    lines += _written(_of_a_run(deployed=kind == "study"), given)
    lines += tomli_w.dumps({"paper": given["paper"]}).splitlines() if "paper" in given else []
    lines += _comment("The sites of a simulation. Each may hold every setting of cdtl config new site.")
    for site in given["sites"]:
        settings = [f"{key} = {toml_value(value)}" for key, value in site.items()]
        lines += ["", *(f"{'#' * (kind == 'study')}{line}" for line in ("[[sites]]", *settings))]
    return "\n".join([*lines, ""])


def about_shipped(name: str) -> str:
    """Return the first sentence of the comment at the beginning of a shipped configuration."""
    text = find_config(Path(name)).read_text(encoding="utf-8")
    comment = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return re.split(r"(?<=[.?]) ", " ".join(line.removeprefix("# ") for line in comment))[0]


def _of_a_run(*, deployed: bool) -> Table:
    """Return the settings of a run and what a simulation adds to its top level; `method` is for deployed runs only."""
    run, whole = table_of_settings(RunConfig), table_of_settings(SimulationConfig)
    own = tuple(replace(one, meaning=f"{one.meaning} In simulations only.") for one in whole.settings)
    cluster = next(table for table in whole.tables if table.name == "cluster")
    settings = tuple(one for one in run.settings if deployed or one.key != "method") + own
    return replace(run, settings=settings, tables=(*run.tables, cluster))


def _written(table: Table, given: Mapping[str, Any], *, off: bool = False) -> Iterator[str]:
    """Yield a table's settings, then the tables in it.

    Args:
        table: The table.
        given: Settings that are written without #.
        off: Whether the table may be left out and is, with all that is in it.
    """
    off = (off or table.optional) and not given
    if table.name:
        yield from _comment(table.meaning + (" May be left out." if table.optional else ""))
        yield f"{'#' * off}[{table.name}]"
    for one in table.settings:
        yield from _comment(one.meaning)
        yield from _comment(f"  {one.allowed}; {'' if one.required else 'default: '}{one.default_text}")
        yield f"{'#' * (one.key not in given)}{one.key} = {toml_value(given.get(one.key, one.value))}"
    yield ""
    for inner in table.tables:
        yield from _written(inner, given.get(inner.name.rpartition(".")[2], {}), off=off)


def _comment(text: str) -> list[str]:
    indent = "# " + " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(text.strip(), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
