"""Settings checked: a tree of values becomes settings, or an error that says what to write."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cdtl_core.config.run import RunConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.errors import CdtlError, ConfigError

__all__ = ["validated"]

_Model = TypeVar("_Model", bound=BaseModel)
_RENAMED = "the same method under its common name (each site keeps its norms)"


def validated(kind: type[_Model], document: Mapping[str, Any], source: str) -> _Model:
    """Return the settings that a tree holds.

    Args:
        kind: Their model.
        document: The tree, as read from TOML or a message.
        source: Its name in errors.

    Raises:
        ConfigError: A setting is unknown, ill-typed, or of an earlier version.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        if former := _former(document):
            raise ConfigError(_of_earlier_version(former, source)) from None
        raise _sentence(error, source) from None


def _former(document: Mapping[str, Any]) -> str:
    """Return the settings of an earlier version that are in use and what to write now; empty if there are none."""
    run, lock = document.get("run", document), document.get("lock", {})
    for place, tree in (("", run), ("lock.", lock)):
        if isinstance(tree, Mapping) and any(str(key).partition(".")[0] == "gate" for key in tree):
            return (
                f"the settings {place}gate.*: write {place}model_selection.* with the same keys (the pooled model is "
                "used unless 20 validation patients or more are predicted better by the own model)"
            )
        if isinstance(tree, Mapping) and tree.get("method") == "fedavg":
            return f'{place}method = "fedavg": write "fedbn", {_RENAMED}'
    methods = document.get("methods", ())
    if isinstance(methods, list | tuple) and "fedavg" in methods:
        return (
            f'"fedavg" among the methods: write "fedbn", {_RENAMED}. '
            "FedAvg with shared norms is available in cdtl compare"
        )
    return ""


def _of_earlier_version(former: str, source: str) -> str:
    played = ("rounds.jsonl", "study.json", "request.json")
    if any(Path(source).with_name(name).exists() for name in played):
        return (
            f"{Path(source).parent} was written by an earlier version of cdtl (it holds {former}): read it with that "
            "version, or start the run again in a new folder with the settings changed."
        )
    return f"{source} is of an earlier version of cdtl. It holds {former}."


def _sentence(error: ValidationError, source: str) -> CdtlError:
    first, more = error.errors()[0], error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"] if part != "run") or "the configuration"
    got = "" if first["type"] in {"missing", "value_error"} else f", got {first['input']!r}"
    rest = f" ({more} more like it)" if more else ""
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{key} in {source} is unknown{got}{rest}{_did_you_mean(key)}")
    what = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{key} in {source}: {what}{got}{rest}; correct the setting.")


def _did_you_mean(key: str) -> str:
    """The end of a sentence about an unknown setting: the setting most like it, if one is."""
    own = re.sub(r"^sites\.[0-9]+\.", "", key)
    near = get_close_matches(own, {*_keys(RunConfig), *_keys(SiteConfig)}, n=1, cutoff=0.75)
    return f": did you mean {key.removesuffix(own)}{near[0]}?" if near else "; remove it."


def _keys(kind: type[BaseModel], start: str = "") -> Iterator[str]:
    """All settings and tables of a model, with dots."""
    for name, field in kind.model_fields.items():
        part = field.annotation
        yield start + name
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from _keys(part, f"{start}{name}.")
