"""Commented templates of configuration files, with every setting and its default."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cdtl_core.config.reference import Table, table_of_settings, toml_value
from cdtl_core.config.run import RunConfig
from cdtl_core.config.settings import read_toml
from cdtl_core.config.simulation import SimulationConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.system.shipped import find_config

__all__ = ["Kind", "template"]

Kind = Literal["demo", "study", "site"]
_WIDTH = 100
_HEADS: Mapping[Kind, str] = {
    "demo": "Four SYNTHETIC hospitals on this machine, three modalities. Play it: cdtl simulate {name}",
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


def template(kind: Kind, name: str) -> str:
    """Return the text of a configuration file.

    Args:
        kind: ``demo``: a simulation of synthetic hospitals that runs as it stands. ``study``: a run's settings.
            ``site``: a hospital's.
        name: Name of the file, for the commands in it.
    """
    lines = [*_comment(_HEADS[kind].format(name=name)), *_comment(_EVERY.format(name=name)), ""]
    if kind == "site":
        return "\n".join([*lines, *_written(table_of_settings(SiteConfig), _SITE)])
    given = read_toml(find_config(Path("demo"))) if kind == "demo" else _STUDY
    lines += _written(_of_a_run(deployed=kind == "study"), given)
    lines += _comment("The sites of a simulation. Each may hold every setting of cdtl config new site.")
    for site in given["sites"]:
        settings = [f"{key} = {toml_value(value)}" for key, value in site.items()]
        lines += ["", *(f"{'#' * (kind == 'study')}{line}" for line in ("[[sites]]", *settings))]
    return "\n".join([*lines, ""])


def _of_a_run(*, deployed: bool) -> Table:
    """Return the settings of a run and what a simulation adds to its top level; `method` is for deployed runs only."""
    run, whole = table_of_settings(RunConfig), table_of_settings(SimulationConfig)
    own = tuple(replace(one, meaning=f"{one.meaning} In simulations only.") for one in whole.settings)
    return replace(run, settings=tuple(one for one in run.settings if deployed or one.key != "method") + own)


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
