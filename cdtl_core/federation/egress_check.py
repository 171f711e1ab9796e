"""Compares a reply with the egress list and with the site's own facts; the first fault is a sentence."""

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
    """Facts that a site's egress filter knows itself, independent of the approved code.

    Attributes:
        round: The round that the coordinator asked for; None if a reply names none.
        contract: The JSON of the contract in the site's enrolment; empty if it has not enrolled.
        ledger: The number of the site's privacy ledger; empty without one.
        reservations: Number of reservations in it.
    """

    round: int | None = None
    contract: str = ""
    ledger: str = ""
    reservations: int = 0


@dataclass(frozen=True)
class Outline:
    """A reply without the values of its tensors: record to name to tensor, number or text."""

    arrays: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def check_outline(manifest: EgressManifest, message_type: str, outline: Outline) -> str:
    """Return why a reply may not leave, with the first thing that is not on the list; empty if it may.

    Args:
        manifest: The egress list.
        message_type: Type of the message that it answers.
        outline: The reply.
    """
    if manifest.schema_version != LIST_VERSION:
        return "the run was approved with an earlier version of cdtl, whose list limits no number: approve it again."
    rule = manifest.replies.get(message_type)
    if rule is None:
        return f"a reply to messages of type {message_type!r} is not on the egress list: nothing of it leaves."
    return next(_faults(manifest, rule, outline), "")


def own_fault(own: Own, outline: Outline) -> str:
    """Return how a reply contradicts the site's own facts; empty if it does not."""
    round = outline.metrics.get("metrics", {}).get("round")
    if round is not None and round != own.round:
        return f"the reply is for round {round}, but round {own.round} was requested: nothing of this reply leaves."
    hello = outline.configs.get("site", {})
    if "contract" in hello and not own.contract:
        return "this site has no enrolment.json to compare its contract with: run cdtl site init."
    if "contract" in hello and hello["contract"] != own.contract:
        return "the contract is not the one in enrolment.json: nothing of this reply leaves."
    if "num_patients" in hello and hello["num_patients"] > _most_of(own.contract):
        return "the number of patients is larger than in the site's enrolment: nothing of this reply leaves."
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
    """Yield record, name, value and its rule, or None; an empty or unlisted record counts as one value."""
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
        return "not a string, or too long"
    if entry.contract:
        return _contract_fault(manifest, value)
    matches = value == entry.exact if entry.exact is not None else re.fullmatch(entry.pattern or "", value)
    return "" if matches else "a different text"


def _contract_fault(manifest: EgressManifest, text: str) -> str:
    """Check that a contract is this site's and in cdtl's only spelling, which leaves no room for other data."""
    try:
        contract = load_contract(text, "in a reply")
    except DataError:
        return "not a modality contract"
    of_site = manifest.site in ("", contract.site) and manifest.modality in ("", contract.modality)
    of_task = (contract.labels, contract.positive) == (manifest.labels, manifest.positive)
    return "" if of_site and of_task and contract.model_dump_json() == text else "a contract of another site or task"


def _sentence(record: str, name: str, what: str, got: str, wanted: object) -> str:
    place = f"{record[:48]!r}.{name[:96]!r}"
    if wanted is None:
        return f"the {what} {place} is not on the egress list: nothing of this reply leaves."
    return f"the {what} {place} is {got}, which differs from the egress list: nothing of this reply leaves."
