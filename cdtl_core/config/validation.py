"""Settings checked: a tree of values becomes settings, or an error that says what to write."""

import copy
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cdtl_core.config.forms import Fault, faults_of
from cdtl_core.config.run import RunConfig
from cdtl_core.config.simulation import SimulationConfig
from cdtl_core.config.site import SiteConfig
from cdtl_core.config.training import setting_keys
from cdtl_core.errors import ConfigError
from cdtl_core.system.foreign import visible

__all__ = ["validated"]

_Model = TypeVar("_Model", bound=BaseModel)
_MOST_SHOWN, _MOST_NEAR = 80, 3
_RATE, _ROUNDS, _BACKBONE = ("train.lr", "dp.lr"), ("federation.rounds", "train.steps"), ("model.backbone",)
_USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "algorithm": ("methods", "method"), "strategy": ("methods", "method"),
    "arch": _BACKBONE, "architecture": _BACKBONE, "network": _BACKBONE,
    "batch": ("train.batch_size",), "bs": ("train.batch_size",),
    "classes": ("task.labels",), "class_names": ("task.labels",),
    "clients": ("sites",), "hospitals": ("sites",),
    "criterion": ("train.loss",), "pretrained": ("model.weights",),
    "delta": ("dp.target_delta",), "epsilon": ("dp.target_epsilon",), "clip": ("dp.max_grad_norm",),
    "epoch": _ROUNDS, "epochs": _ROUNDS, "num_rounds": _ROUNDS, "iterations": ("train.steps",),
    "image_size": ("image.size",), "img_size": ("image.size",), "resolution": ("image.size",),
    "learning_rate": _RATE, "learningrate": _RATE, "l2": ("train.weight_decay",), "wd": ("train.weight_decay",),
    "random_seed": ("seed",), "random_state": ("seed",),
}  # fmt: skip
"""Names of other programs to the settings of cdtl."""
_RENAMED = "the same method under its common name (each site keeps its norms)"


def validated(kind: type[_Model], document: Mapping[str, Any], source: str, typed: Sequence[str] = ()) -> _Model:
    """Return the settings that a tree holds.

    Args:
        kind: Their model.
        document: The tree, as read from TOML or a message.
        source: Its name in errors.
        typed: Keys of the settings that came with ``--set``, which errors about these name instead.

    Raises:
        ConfigError: A setting is unknown, ill-typed, or of an earlier version. Its notes are the sentences about all
            wrong settings.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        if former := _former(document):
            raise ConfigError(_of_earlier_version(former, source)) from None
        all_of = [*faults_of(error), *_hidden(kind, document, error)]
        faults = [one for fault in all_of for one in _opened(kind, fault)]
        named = [(fault, ".".join(_named(fault.place, document))) for fault in faults]
        sources = ["--set" if _is_typed(place, typed) else source for _, place in named]
        sentences = [_sentence(kind, *one, where) for one, where in zip(named, sources, strict=True)]
        found, more = ConfigError(sentences[0]), sources[1:].count(source)
        if more and Path(source).is_file():
            found = ConfigError(f"{sentences[0].removesuffix('.')} ({more} more: cdtl config check {source}).")
        for sentence in sentences:
            found.add_note(sentence)
        raise found from None


def _hidden(kind: type[_Model], document: Mapping[str, Any], error: ValidationError) -> list[Fault]:
    """Return the faults that pydantic looks for only where no setting is unknown: between several settings.

    Args:
        kind: The model.
        document: The tree.
        error: Its error.
    """
    first = faults_of(error)
    known = copy.deepcopy(dict(document))
    for place in [one.place for one in first if one.type == "extra_forbidden"]:
        node: Any = known
        for part in place[:-1]:
            node = node[part] if _holds(node, part) else {}
        if isinstance(node, dict):
            node.pop(place[-1], None)
    try:
        kind.model_validate(known)
    except ValidationError as other:
        return [one for one in faults_of(other) if one.place not in {each.place for each in first}]
    return []


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


def _is_typed(place: str, typed: Sequence[str]) -> bool:
    return any(f"{place}.".startswith(f"{key}.") or f"{key}.".startswith(f"{place}.") for key in typed if place)


def _opened(kind: type[BaseModel], fault: Fault) -> list[Fault]:
    """Return a fault for each setting of an unknown table if a setting of such a name exists, else the fault itself."""
    known, inner = _keys_of(kind), fault.value if isinstance(fault.value, Mapping) else {}
    if fault.type != "extra_forbidden" or not inner or _nearest(_key_of(fault), known):
        return [fault]
    found = [fault._replace(place=(*fault.place, str(name)), value=value) for name, value in inner.items()]
    return found if any(_nearest(_key_of(one), known) for one in found) else [fault]


def _key_of(fault: Fault) -> str:
    """Return a setting with dots, a site's without its number."""
    return ".".join(str(part) for part in fault.place if not isinstance(part, int)).removeprefix("run.")


def _sentence(kind: type[BaseModel], fault: Fault, place: str, source: str) -> str:
    key = place or "the file"
    if fault.type == "missing":
        return f"{key} is missing in {source}: add it."
    shown = str(fault.value).lower() if isinstance(fault.value, bool) else repr(fault.value)  # as TOML has it
    got = f", got {visible(shown, _MOST_SHOWN)}"
    if fault.type == "extra_forbidden":
        of_site = fault.place[:1] == ("sites",) and len(fault.place) > 2
        start = key.removesuffix(_key_of(fault).removeprefix("sites.")) if of_site else ""
        return f"{key} in {source} is unknown{got}{_did_you_mean(kind, _key_of(fault), start)}"
    if fault.type == "value_error":
        return f"{f'{place} in ' if place else ''}{source}: {fault.reason}; correct the setting."
    return f"{key} in {source} {fault.reason}{got}."


def _named(place: Sequence[str | int], document: Mapping[str, Any]) -> list[str]:
    """Return the parts of a place as the user writes them: a site by its name instead of its number."""
    parts, node = [], document
    for part in place:
        node = node[part] if _holds(node, part) else None  # type: ignore[index, assignment]
        name = node.get("site") if isinstance(part, int) and isinstance(node, Mapping) else None
        parts.append(visible(name or part, _MOST_SHOWN))
    return [part for part in parts[place[:1] == ("run",) :] if part != "[key]"]


def _holds(node: object, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(node, list | tuple) and part < len(node)
    return isinstance(node, Mapping) and part in node


def _did_you_mean(kind: type[BaseModel], key: str, start: str) -> str:
    """Return the end of a sentence about an unknown setting: the settings most like it, in any table.

    Args:
        kind: The model that does not know it.
        key: The setting with dots; a site's without its number.
        start: What the user writes for the site, such as ``sites.north.``.
    """
    if near := _nearest(key, _keys_of(kind)):
        return f": did you mean {' or '.join(_shown(one, start) for one in near[:_MOST_NEAR])}?"
    for other, whose in ((RunConfig, "a run"), (SiteConfig, "a site")):
        if near := _nearest(key, _keys_of(other), cutoff=0.9):
            return f": {near[0]} is a setting of {whose}; remove it here."
    return "; remove it."


def _nearest(key: str, known: Sequence[str], cutoff: float = 0.75) -> list[str]:
    """Return the settings of this name in other tables, else of a usual name for it, else those named most like it."""
    names: dict[str, list[str]] = {}
    for one in known:
        names.setdefault(one.rpartition(".")[2], []).append(one)
    last = key.rpartition(".")[2]
    if found := [one for one in names.get(last, ()) if one != key]:
        return found
    if found := [one for one in _USUAL_NAMES.get(last.lower().replace("-", "_"), ()) if one in known]:
        return found
    if found := get_close_matches(key, known, n=1, cutoff=cutoff):
        return found
    return names[near[0]] if (near := get_close_matches(last, names, n=1, cutoff=max(cutoff, 0.8))) else []


def _keys_of(kind: type[BaseModel]) -> list[str]:
    """Return all settings and tables as the user writes them."""
    keys = list(setting_keys(kind, tables=True))
    if kind is not SimulationConfig:
        return keys
    return [key.removeprefix("run.") for key in keys if key not in {"run", "run.method"}]


def _shown(key: str, start: str) -> str:
    if not key.startswith("sites."):
        return "[[sites]]" if key == "sites" else key
    own = key.removeprefix("sites.")
    return f"{start}{own}" if start else f"{own} under [[sites]]"
