"""The egress list: every tensor, number and text that a site's replies may hold, closed by default.

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
from cdtl_core.errors import DataError
from cdtl_core.federation.contract import load_contract
from cdtl_core.federation.label_map import head_name, label_hash

__all__ = ["EgressManifest", "Outline", "ReplyRule", "Tensor", "Text", "check_outline", "egress_hash"]
__all__ += ["egress_manifest"]

Kind = Literal["int", "float", "bool"]
_Rule = TypeVar("_Rule")
_NAME = r"[a-z0-9][a-z0-9_-]{0,47}"
_MAX_CONTRACT = 4096


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(_Record):
    """A tensor on the list or in a reply; `bytes` is its size on the wire, NumPy's header included."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int = Field(ge=0)


class Text(_Record):
    """What a text may be: one exact value, or a whole match of a pattern, or a modality contract of this site."""

    exact: str | None = None
    pattern: str | None = None
    contract: bool = False
    max_length: int = Field(64, ge=0)


class ReplyRule(_Record):
    """What the reply to one type of message may hold: record to name to rule; `total_bytes` of all its tensors."""

    arrays: Mapping[str, Mapping[str, Tensor]] = {}
    metrics: Mapping[str, Mapping[str, Kind]] = {}
    configs: Mapping[str, Mapping[str, Kind | Text]] = {}
    total_bytes: int = 0


class EgressManifest(_Record):
    """All that may leave a site in one run: for each type of message what the reply may hold.

    Attributes:
        site: Its name; empty in a coordinator's request, which is for any site.
        modality: Its modality; empty for any.
        labels: What it predicts, in order.
        positive: The label whose probability is the score.
        replies: Message type to rule; a type that is not listed gets no reply.
    """

    schema_version: Literal[1] = 1
    site: str = ""
    modality: str = ""
    labels: tuple[str, ...]
    positive: str
    replies: Mapping[str, ReplyRule]


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
    numbers: dict[str, Kind] = {"round": "int"}
    numbers |= {"spent": "int"} if private else dict.fromkeys(("val_loss", "val_auroc", "train_loss"), "float")
    train = ReplyRule(
        arrays={"delta": tensors},
        metrics={"metrics": numbers},
        total_bytes=sum(tensor.bytes for tensor in tensors.values()),
    )
    final: dict[str, Kind] = dict.fromkeys(("test_auroc", "test_auroc_low", "test_auroc_high"), "float")
    final = {"kept": "int"} if private else {**final, "chosen": "int"}
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


def egress_hash(manifest: EgressManifest) -> str:
    """SHA-256 of a list, in hex: two lists are the same if and only if their hashes are."""
    return hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()


def check_outline(manifest: EgressManifest, message_type: str, outline: Outline) -> str:
    """Why a reply may not leave, naming the first thing that is not on the list; empty if it may."""
    rule = manifest.replies.get(message_type)
    if rule is None:
        return f"a reply to messages of type {message_type!r} is not on the egress list: nothing of it leaves."
    return next(_faults(manifest, rule, outline), "")


def _introduction(site: str, modality: str, labels: Sequence[str], private: bool) -> dict[str, Kind | Text]:
    ledger: dict[str, Kind | Text] = {"ledger": Text(pattern=r"[0-9a-f]{32}"), "reservations": "int"}
    return (ledger if private else {}) | {
        "site": Text(exact=site) if site else Text(pattern=_NAME),
        "modality": Text(exact=modality) if modality else Text(pattern=_NAME),
        "label_hash": Text(exact=label_hash(labels)),
        "theta0_hash": Text(pattern=r"[0-9a-f]{64}"),
        "contract": Text(contract=True, max_length=_MAX_CONTRACT),
        "num_patients": "int",
    }


def _shared_tensors(config: RunConfig, labels: Sequence[str]) -> dict[str, Tensor]:
    from cdtl_core.learning.model import build_classifier, frozen_stages, parts_of

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
    for record, name, value, kind in _pairs(outline.metrics, rule.metrics):
        if type(value).__name__ != kind:
            yield _sentence(record, name, "number", type(value).__name__, kind)
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


def _value_fault(manifest: EgressManifest, value: Any, entry: Kind | Text | None) -> str:
    if not isinstance(entry, Text):
        return "" if type(value).__name__ == entry else type(value).__name__
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
