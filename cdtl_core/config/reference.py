"""All settings with key, meaning, allowed values and default, from the models of the settings: the only list."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cdtl_core.config.forms import FORMS
from cdtl_core.config.run import RunConfig
from cdtl_core.config.simulation import SimulationConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.config.training import table_of

__all__ = ["Setting", "Table", "meanings_of", "reference_page", "table_of_settings", "toml_value"]


@dataclass(frozen=True)
class Setting:
    """A setting.

    Attributes:
        key: Its name within its table.
        meaning: One or two sentences, with the unit.
        allowed: The allowed values in words.
        default: None if it has none.
        required: Whether it must be given.
        example: A value for a template where there is no default.
    """

    key: str
    meaning: str
    allowed: str
    default: Any
    required: bool
    example: Any

    @property
    def value(self) -> Any:
        """Return the default, or the example where the default says nothing about the form."""
        return self.example if self.default is None or (self.example is not None and not self.default) else self.default

    @property
    def default_text(self) -> str:
        """Return the default as it is written in TOML; ``required`` or ``not set`` without one."""
        return "required" if self.required else "not set" if self.default is None else toml_value(self.default)


@dataclass(frozen=True)
class Table:
    """A table of settings: its name with dots, its meaning, its settings and the tables in it."""

    name: str
    meaning: str
    settings: tuple[Setting, ...]
    tables: tuple["Table", ...]
    optional: bool

    def walk(self) -> Iterator["Table"]:
        """Yield the table and all tables in it, as they are written."""
        yield self
        for table in self.tables:
            yield from table.walk()


@cache
def table_of_settings(kind: type[BaseModel], name: str = "", *, optional: bool = False) -> Table:
    """Return a table with everything in it, read from its model.

    Args:
        kind: The model.
        name: Name of the table with dots; empty: the whole file.
        optional: Whether the table may be left out.
    """
    schema = kind.model_json_schema(by_alias=False)
    fields = {key: (field, table_of(field.annotation)) for key, field in kind.model_fields.items()}
    meanings = meanings_of(kind)
    values = [
        _setting(key, field, meanings.get(key, ""), schema) for key, (field, part) in fields.items() if part is None
    ]
    tables = [
        table_of_settings(part, f"{name}.{key}".lstrip("."), optional=field.default is None)
        for key, (field, part) in fields.items()
        if part is not None
    ]
    meaning = " ".join((kind.__doc__ or "").split())
    return Table(name, meaning, tuple(values), tuple(tables), optional)


def meanings_of(kind: type[BaseModel]) -> dict[str, str]:
    """Return the meaning of each field on one line: its description, or else the text below it in the source.

    pydantic's ``use_attribute_docstrings`` reads the same at every import, which costs each program half a second.
    """
    found = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(BaseModel)]):
        (written,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, text in pairwise(written.body):  # type: ignore[attr-defined]
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                    found[name] = " ".join(meaning.split())
    return found | {name: field.description for name, field in kind.model_fields.items() if field.description}


def _setting(key: str, field: FieldInfo, meaning: str, schema: Mapping[str, Any]) -> Setting:
    part = schema["properties"][key]
    default = None if field.is_required() else _plain(field.default)
    example = next(iter(field.examples or ()), None)
    return Setting(key, meaning, _words(part), default, field.is_required(), example)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def toml_value(value: Any) -> str:
    """Return a value as it is written in TOML, on one line."""
    if isinstance(value, Mapping):
        pairs = (f"{tomli_w.dumps({key: 0}).partition(' = ')[0]} = {toml_value(one)}" for key, one in value.items())
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) or abs(value) > 1e6 else f"{value:.1f}"
    return json.dumps(value, ensure_ascii=False)


def _words(schema: Mapping[str, Any]) -> str:
    """Return the allowed values of a field's JSON schema, in words."""
    if "anyOf" in schema:
        return " or ".join(_words(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema or "const" in schema:
        *first, last = map(str, schema.get("enum") or [schema["const"]])
        return f"{', '.join(first)} or {last}" if first else last
    kind = schema.get("type")
    if kind == "string":
        return _text(schema)
    if kind == "array":
        return f"list{_count(schema, 'Items', 'entries')}, each: {_words(schema['items'])}"
    if kind == "object":
        values = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties", True))
        return "table" if values is True else f"table, each value: {_words(values)}"
    return {"boolean": "true or false", "integer": "whole number", "number": "number"}.get(kind or "", "any") + _range(
        schema
    )


def _text(schema: Mapping[str, Any]) -> str:
    if "pattern" in schema:
        return FORMS[schema["pattern"]]
    return "path" if schema.get("format") == "path" else f"text{_count(schema, 'Length', 'characters')}"


def _count(schema: Mapping[str, Any], what: str, unit: str) -> str:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is None and most is None:
        return ""
    if least is None:
        return f", at most {most} {unit}"
    if most is None:
        return f", {least} or more {unit}"
    return f", {most} {unit}" if least == most else f", {least} to {most} {unit}"


def _range(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    ends = [
        f"{low:g} or more" if low is not None else "",
        f"above {above:g}" if above is not None else "",
        f"at most {high:.0f}" if high is not None and high > 999 else f"at most {high:g}" if high is not None else "",
        f"below {below:.0f}" if below is not None and below > 999 else f"below {below:g}" if below is not None else "",
    ]
    told = ", ".join(end for end in ends if end)
    return f", {told}" if told else ""


_PAGE = """# Settings

`cdtl config reference` writes this page. A setting is written the same way everywhere: `train.lr` in TOML, in `--set`
and in Flower's run configuration. `cdtl config new` writes a file with all of them, `cdtl config check FILE` checks
one.

Paths in a file are relative to its folder, paths in `--set` to the working folder.
"""
_PARTS = (
    ("A run", "What all sites of a federation agree on. A simulation's file holds these settings too.", RunConfig),
    ("A simulation", "In addition to the settings of a run, and without `method`. `[data]` is what all sites share.",
     SimulationConfig),
    ("A site", "Settings of `site.toml`, and of each `[[sites]]` of a simulation. They stay at the site.", SiteConfig),
)  # fmt: skip


def reference_page() -> str:
    """Return the page of all settings as Markdown."""
    lines = [_PAGE]
    for title, about, kind in _PARTS:
        lines += [f"## {title}", "", about, ""]
        for table in table_of_settings(kind).walk():
            if kind is not SimulationConfig or table.name.split(".")[0] in {"", "paper", "cluster"}:
                lines += _markdown(table)
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown(table: Table) -> Iterator[str]:
    if table.name:
        yield from (f"### [{table.name}]", "", table.meaning + (" May be left out." if table.optional else ""), "")
    if not table.settings:
        return
    yield from ("| key | default | allowed | meaning |", "|---|---|---|---|")
    for one in table.settings:
        default = f"`{one.default_text}`" if not one.required and one.default is not None else one.default_text
        cells = (f"`{one.key}`", default, one.allowed, one.meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
