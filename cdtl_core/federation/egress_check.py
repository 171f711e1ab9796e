"""A reply held against the egress list, and against what the site knows of itself; the first fault is a sentence."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cdtl_core.errors import DataError
from cdtl_core.federation.contract import load_contract, most_patients
from cdtl_core.federation.egress import LIST_VERSION, EgressManifest, Number, ReplyRule, Tensor, Text

__all__ = ["Outline", "Own", "check_outline", "own_fault"]

_Rule = TypeVar("_Rule")
_NOTHING = Tensor(dtype="none", shape=(), bytes=0)


@dataclass(frozen=True)
class Own:
    """What a site's egress filter knows by itself of a reply, whatever the approved code says.

    Attributes:
        round: That the coordinator asked for; None where a reply names none.
        contract: The JSON of the contract that the site enrolled with; empty if it has not enrolled.
        ledger: The number of the site's privacy ledger; empty without one.
        reservations: How often steps were reserved in it.
    """

    round: int | None = None
    contract: str = ""
    ledger: str = ""
    reservations: int = 0


@dataclass(frozen=True)
class Outline:
    """A reply without its values of tensors: record to name to tensor, number or text."""

    arrays: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def check_outline(manifest: EgressManifest, message_type: str, outline: Outline) -> str:
    """Why a reply may not leave, naming the first thing that is not on the list; empty if it may."""
    if manifest.schema_version != LIST_VERSION:
        return "the run was approved with an earlier cdtl, whose list bounds no number: approve it again."
    rule = manifest.replies.get(message_type)
    if rule is None:
        return f"a reply to messages of type {message_type!r} is not on the egress list: nothing of it leaves."
    return next(_faults(manifest, rule, outline), "")


def own_fault(own: Own, outline: Outline) -> str:
    """Why a reply does not say of its site what the site itself knows; empty if it does, or says nothing of it."""
    round = outline.metrics.get("metrics", {}).get("round")
    if round is not None and round != own.round:
        return f"the reply is of round {round} and round {own.round} was asked for: nothing of this reply leaves."
    hello = outline.configs.get("site", {})
    if "contract" in hello and not own.contract:
        return "this site has no enrolment.json to hold its contract against: run cdtl site init."
    if "contract" in hello and hello["contract"] != own.contract:
        return "the contract is not the one in enrolment.json: nothing of this reply leaves."
    if "num_patients" in hello and hello["num_patients"] > _most_of(own.contract):
        return "the number of patients is above what the site enrolled with: nothing of this reply leaves."
    if hello.get("ledger", own.ledger) != own.ledger or hello.get("reservations", 0) > own.reservations:
        return "the privacy ledger in the reply is not the site's own: nothing of this reply leaves."
    return ""


def _most_of(contract: str) -> int:
    return most_patients(load_contract(contract, "in enrolment.json")) if contract else 0


def _faults(manifest: EgressManifest, rule: ReplyRule, outline: Outline) -> Iterator[str]:
    for record, name, tensor, wanted in _pairs(outline.arrays, rule.arrays):
        if tensor != wanted:
            yield _sentence(
                record, name, "tensor", f"{tensor.dtype} {list(tensor.shape)}, {tensor.bytes} bytes", wanted
            )
    for record, name, value, number in _pairs(outline.metrics, rule.metrics):
        if why := _value_fault(manifest, value, number):
            yield _sentence(record, name, "number", why, number)
    for record, name, value, entry in _pairs(outline.configs, rule.configs):
        if why := _value_fault(manifest, value, entry):
            yield _sentence(record, name, "value", why, entry)


def _pairs(
    found: Mapping[str, Mapping[str, Any]], allowed: Mapping[str, Mapping[str, _Rule]]
) -> Iterator[tuple[str, str, Any, _Rule | None]]:
    """Record, name, what is there and its rule, or None; a record that is empty or not listed counts as a thing."""
    for record, content in found.items():
        if record not in allowed:
            yield record, next(iter(content), ""), next(iter(content.values()), _NOTHING), None
        for name, value in content.items():
            yield record, name, value, allowed.get(record, {}).get(name)


def _value_fault(manifest: EgressManifest, value: Any, entry: Number | Text | str | None) -> str:
    if isinstance(entry, Number):
        return entry.fault(value)
    if not isinstance(entry, Text):
        return "not listed"
    if not isinstance(value, str) or len(value) > entry.max_length:
        return "no text, or too long a one"
    if entry.contract:
        return _contract_fault(manifest, value)
    matches = value == entry.exact if entry.exact is not None else re.fullmatch(entry.pattern or "", value)
    return "" if matches else "another text"


def _contract_fault(manifest: EgressManifest, text: str) -> str:
    """A contract must be this site's and written the one way that cdtl writes it: no room for anything beside."""
    try:
        contract = load_contract(text, "in a reply")
    except DataError:
        return "no modality contract"
    of_site = manifest.site in ("", contract.site) and manifest.modality in ("", contract.modality)
    of_task = (contract.labels, contract.positive) == (manifest.labels, manifest.positive)
    return "" if of_site and of_task and contract.model_dump_json() == text else "another site's or task's contract"


def _sentence(record: str, name: str, what: str, got: str, wanted: object) -> str:
    place = f"{record[:48]!r}.{name[:96]!r}"
    if wanted is None:
        return f"the {what} {place} is not on the egress list: nothing of this reply leaves."
    return f"the {what} {place} is {got}, not as the egress list has it: nothing of this reply leaves."
