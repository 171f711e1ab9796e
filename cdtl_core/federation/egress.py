"""The egress list: every tensor, number and text that a site's replies may hold and its range, closed by default.

It follows from the run's settings alone, so coordinator and site each work it out with their own code and compare.
A reply may hold less than the list (the server decides in each round whether the head is shared), never more.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from cdtl_core.config import RunConfig
from cdtl_core.config.schema import Crossing, FinalNumbers, Hello, KeptNumbers, PrivateNumbers, UpdateNumbers
from cdtl_core.errors import DataError
from cdtl_core.federation.contract import load_contract, most_patients
from cdtl_core.federation.label_map import head_name, label_hash
from cdtl_core.system.foreign import visible

__all__ = ["LIST_VERSION", "EgressManifest", "Number", "Outline", "Own", "ReplyRule", "Tensor", "Text", "check_outline"]
__all__ += ["egress_hash", "egress_manifest", "limit_of", "own_fault", "sends_own_head"]

LIST_VERSION = 2
_Rule = TypeVar("_Rule")
_SLACK, _SLACK_PER_TENSOR = 64 * 1024, 1024  # Flower's encoding: names, headers, the tree of objects
_Old = Literal["int", "float", "bool"]
_KINDS = {"integer": "int", "number": "float", "boolean": "bool"}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(_Record):
    """A tensor on the list or in a reply; `bytes` is its size on the wire, NumPy's header included."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int = Field(ge=0)


class Number(_Record):
    """A number or truth value on the list: its type, and the least and the most that it may be."""

    type: Literal["int", "float", "bool"]
    low: float = 0
    high: float = 1

    def __str__(self) -> str:
        return "yes or no" if self.type == "bool" else f"{self.low:g} to {self.high:g}"

    def fault(self, value: Any) -> str:
        """Why this value is not such a number; empty if it is."""
        if type(value).__name__ != self.type:
            return type(value).__name__
        return "" if self.low <= value <= self.high else f"not within {self}"


class Text(_Record):
    """What a text may be: one exact value, or a whole match of a pattern, or a modality contract of this site."""

    exact: str | None = None
    pattern: str | None = None
    contract: bool = False
    max_length: int = Field(64, ge=0)

    def __str__(self) -> str:
        return "as in enrolment.json" if self.contract else visible(self.exact or "")


class ReplyRule(_Record):
    """What the reply to one type of message may hold: record to name to rule; `total_bytes` of all its tensors."""

    arrays: Mapping[str, Mapping[str, Tensor]] = {}
    metrics: Mapping[str, Mapping[str, Number | _Old]] = {}
    configs: Mapping[str, Mapping[str, Number | Text | _Old]] = {}
    total_bytes: int = 0


class EgressManifest(_Record):
    """All that may leave a site in one run: for each type of message what the reply may hold.

    Attributes:
        schema_version: 1 is of earlier versions, which did not bound numbers; it is read, and nothing leaves under it.
        site: Its name; empty in a coordinator's request, which is for any site.
        modality: Its modality; empty for any.
        labels: What it predicts, in order.
        positive: The label whose probability is the score.
        replies: Message type to rule; a type that is not listed gets no reply.
    """

    schema_version: Literal[1, 2] = 2
    site: str = ""
    modality: str = ""
    labels: tuple[str, ...]
    positive: str
    replies: Mapping[str, ReplyRule]


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


def egress_manifest(
    config: RunConfig,
    *,
    site: str = "",
    modality: str = "",
    labels: Sequence[str] | None = None,
    private: bool | None = None,
) -> EgressManifest:
    """The list of a run, worked out from its settings; builds the network once to learn its tensors.

    Args:
        config: The run.
        site: Whose list; empty: any site's.
        modality: Of the site; empty: any.
        labels: What the site predicts; the task's if not given.
        private: Whether the site trains with differential privacy; as the run says if not given. No metric, count
            or choice of such a site is on the list.

    Raises:
        ModelError: The backbone is unknown or has fewer stages than `train.freeze`.
    """
    labels = tuple(labels or config.task.labels)
    tensors = _shared_tensors(config, labels)
    private = config.dp.enabled if private is None else private
    numbers = _rules(PrivateNumbers if private else UpdateNumbers)
    numbers["round"] = Number(type="int", low=1, high=config.federation.rounds)
    arrays = {"delta": tensors}
    if sends_own_head(config) and not private:
        arrays["own"] = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    train = ReplyRule(
        arrays=arrays,
        metrics={"metrics": numbers},
        total_bytes=sum(tensor.bytes for record in arrays.values() for tensor in record.values()),
    )
    final = _rules(KeptNumbers if private else FinalNumbers)
    return EgressManifest(
        site=site,
        modality=modality,
        labels=labels,
        positive=config.task.positive,
        replies={
            "query.describe": ReplyRule(configs={"site": _introduction(site, modality, labels, private)}),
            "train": train,
            "evaluate": ReplyRule(metrics={"final": final}),
        },
    )


def sends_own_head(config: RunConfig) -> bool:
    """Whether sites send their own heads after the last round, for sums that set the pool's share at other sites."""
    from cdtl_core.training.inputs import trains_only_heads

    asked = config.method == "cdtl" and config.share.head and config.pool.share == "evidence"
    return asked and trains_only_heads(config)


def egress_hash(manifest: EgressManifest) -> str:
    """SHA-256 of a list, in hex: two lists are the same if and only if their hashes are."""
    return hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()


def limit_of(manifest: EgressManifest, message_type: str) -> int:
    """Return how many bytes a reply may take in Flower's encoding; 0 for a type that is not listed."""
    rule = manifest.replies.get(message_type)
    if rule is None:
        return 0
    return rule.total_bytes + _SLACK + _SLACK_PER_TENSOR * sum(len(record) for record in rule.arrays.values())


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


def _rules(kind: type[Crossing]) -> dict[str, Number]:
    """The numbers of a record with their ranges, as the schema has them."""
    return {name: _number(field) for name, field in kind.model_json_schema()["properties"].items() if "type" in field}


def _number(field: Mapping[str, Any]) -> Number:
    exact = field.get("const", None)
    low, high = (exact, exact) if exact is not None else (field.get("minimum", 0), field.get("maximum", 1))
    return Number.model_validate({"type": _KINDS[field["type"]], "low": low, "high": high})


def _introduction(site: str, modality: str, labels: Sequence[str], private: bool) -> dict[str, Number | Text]:
    """The introduction as the schema has it, with what is known of this site and run in the place of patterns."""
    fields = Hello.model_json_schema()["properties"]
    rules: dict[str, Number | Text] = {
        name: Text(pattern=field.get("pattern"), max_length=field.get("maxLength", 64))
        if field["type"] == "string"
        else _number(field)
        for name, field in fields.items()
        if private or name not in {"ledger", "reservations"}
    }
    exact = {"site": site, "modality": modality, "label_hash": label_hash(labels)}
    rules |= {name: Text(exact=value) for name, value in exact.items() if value}
    return rules | {"contract": Text(contract=True, max_length=fields["contract"]["maxLength"])}


def _shared_tensors(config: RunConfig, labels: Sequence[str]) -> dict[str, Tensor]:
    from cdtl_core.models.model import build_classifier, frozen_stages, parts_of

    model = build_classifier(config.model, len(labels), config.image.size)
    share_head = config.share.head and config.method != "alone"
    state = model.state_dict()
    names = parts_of(model, freeze=frozen_stages(model, config), share_head=share_head).shared
    return {head_name(name, labels): _half(tuple(state[name].shape)) for name in names}


def _half(shape: tuple[int, ...]) -> Tensor:
    """A float16 tensor and its size as a NumPy file."""
    import numpy as np

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return Tensor(dtype="float16", shape=shape, bytes=header.tell() + 2 * int(np.prod(shape, dtype=np.int64)))


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


_NOTHING = Tensor(dtype="none", shape=(), bytes=0)


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
