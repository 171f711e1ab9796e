"""The egress list: every tensor, number and text that a site's replies may contain, with ranges; closed by default.

It follows only from the run's settings, so coordinator and site compute it with their own code and compare. A reply may
hold less than the list (the coordinator decides in each round whether the head is shared), never more. Numbers have the
names and ranges of `cdtl_core.config.schema`. `cdtl_core.federation.egress_check` applies the list.
"""

import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cdtl_core.config import RunConfig
from cdtl_core.config.schema import Crossing, FinalNumbers, Hello, KeptNumbers, PrivateNumbers, UpdateNumbers
from cdtl_core.federation.contract import head_name, label_hash, wire_name
from cdtl_core.system.foreign import visible

__all__ = ["LIST_VERSION", "EgressManifest", "Number", "ReplyRule", "Tensor", "Text", "egress_hash", "egress_manifest"]
__all__ += ["expected_shapes", "limit_of", "sends_own_head"]

LIST_VERSION = 2
_SLACK, _SLACK_PER_TENSOR = 64 * 1024, 1024  # Flower's encoding: names, headers, the tree of objects
_Old = Literal["int", "float", "bool"]
_KINDS = {"integer": "int", "number": "float", "boolean": "bool"}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(_Record):
    """A tensor on the list or in a reply; `bytes` is its size on the wire, including NumPy's header."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int = Field(ge=0)


class Number(_Record):
    """A number or truth value on the list: its type, and its smallest and largest value."""

    type: Literal["int", "float", "bool"]
    low: float = 0
    high: float = 1

    def __str__(self) -> str:
        return "yes or no" if self.type == "bool" else f"{_plain(self.low)} to {_plain(self.high)}"

    def fault(self, value: Any) -> str:
        """Return why a value is not such a number; empty if it is."""
        if type(value).__name__ != self.type:
            return type(value).__name__
        return "" if self.low <= value <= self.high else f"not within {self}"


def _plain(value: float) -> str:
    """Return a number as a data protection officer reads it: 10,000,000 and not 1e+07."""
    return f"{value:,.9f}".rstrip("0").rstrip(".")


class Text(_Record):
    """Allowed texts: one exact value, a full match of a pattern, or a modality contract of this site."""

    exact: str | None = None
    pattern: str | None = None
    contract: bool = False
    max_length: int = Field(64, ge=0)

    def __str__(self) -> str:
        return "as in enrolment.json" if self.contract else visible(self.exact or "")


class ReplyRule(_Record):
    """Allowed contents of the reply to one type of message: record to name to rule; `total_bytes` of all tensors."""

    arrays: Mapping[str, Mapping[str, Tensor]] = {}
    metrics: Mapping[str, Mapping[str, Number | _Old]] = {}
    configs: Mapping[str, Mapping[str, Number | Text | _Old]] = {}
    total_bytes: int = 0


class EgressManifest(_Record):
    """Everything that may leave a site in one run: for each type of message the allowed reply.

    Attributes:
        schema_version: 1 is of earlier versions, which did not limit numbers; it is read, and nothing leaves under it.
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


def egress_manifest(
    config: RunConfig,
    *,
    site: str = "",
    modality: str = "",
    labels: Sequence[str] | None = None,
    private: bool | None = None,
) -> EgressManifest:
    """Return the egress list of a run from its settings; builds the network once to find its tensors.

    Args:
        config: The run.
        site: Name of the site; empty: any site.
        modality: Of the site; empty: any.
        labels: What the site predicts; default: the task's labels.
        private: Whether the site trains with differential privacy; default: as the run. No metric, count or choice of
            such a site is on the list.

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
    """Whether sites send their own heads after the last round; sums of them set the pool's share at other sites."""
    asked = config.method == "cdtl" and config.share.head and config.pool.share == "evidence"
    return asked and config.trains_only_heads


def expected_shapes(
    shared: Mapping[str, tuple[int, ...]], config: RunConfig, head_of: str
) -> dict[str, tuple[int, ...]]:
    """Return names and shapes that the coordinator expects in the update of a site.

    They are the shared part of the backbone and, if heads are shared, the head of the site's label map. A label map
    other than the task's may have any number of labels: -1.

    Args:
        shared: Tensor of the task's network to its shape, of all that sites may share.
        config: The run.
        head_of: Hash of the site's labels.
    """
    count = len(config.task.labels) if head_of == label_hash(config.task.labels) else -1
    wired = {wire_name(name, head_of): _rows(name, count, shape) for name, shape in shared.items()}
    return {name: shape for name, shape in wired.items() if config.share.head or not name.startswith("head.")}


def egress_hash(manifest: EgressManifest) -> str:
    """Return the SHA-256 of a list, in hex; lists are equal if and only if their hashes are."""
    return hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()


def limit_of(manifest: EgressManifest, message_type: str) -> int:
    """Return the largest size of a reply in Flower's encoding, in bytes; 0 for a type that is not listed."""
    rule = manifest.replies.get(message_type)
    if rule is None:
        return 0
    return rule.total_bytes + _SLACK + _SLACK_PER_TENSOR * sum(len(record) for record in rule.arrays.values())


def _rules(kind: type[Crossing]) -> dict[str, Number]:
    """Return the numbers of a record with their ranges from the schema."""
    return {name: _number(field) for name, field in kind.model_json_schema()["properties"].items() if "type" in field}


def _number(field: Mapping[str, Any]) -> Number:
    exact = field.get("const", None)
    low, high = (exact, exact) if exact is not None else (field.get("minimum", 0), field.get("maximum", 1))
    return Number.model_validate({"type": _KINDS[field["type"]], "low": low, "high": high})


def _introduction(site: str, modality: str, labels: Sequence[str], private: bool) -> dict[str, Number | Text]:
    """Return the introduction of the schema, with the known facts of this site and run instead of patterns.

    Args:
        site: Name of the site.
        modality: Its modality.
        labels: What it predicts.
        private: Whether it trains with differential privacy.
    """
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
    """Return the tensors of an update by their names in messages; a head has a row for each label."""
    shapes = {name: _rows(name, len(labels), shape) for name, shape in _shared_shapes(config).items()}
    return {head_name(name, labels): _half(shape) for name, shape in shapes.items()}


def _rows(name: str, count: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a tensor at a site with a number of labels: a head has a row for each."""
    return (count, *shape[1:]) if name.startswith("head.") else shape


@functools.lru_cache(maxsize=4)
def _shared_shapes(config: RunConfig) -> Mapping[str, tuple[int, ...]]:
    """Build a run's network, and return the shapes of the tensors that sites share."""
    from cdtl_core.models.model import frozen_stages, parts_of, shared_classifier

    model = shared_classifier(config.model, len(config.task.labels), config.image.size)
    share_head = config.share.head and config.method != "alone"
    state = model.state_dict()
    names = parts_of(model, freeze=frozen_stages(model, config), share_head=share_head).shared
    return {name: tuple(state[name].shape) for name in names}


def _half(shape: tuple[int, ...]) -> Tensor:
    """Return a float16 tensor with its size as a NumPy file."""
    import numpy as np

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return Tensor(dtype="float16", shape=shape, bytes=header.tell() + 2 * int(np.prod(shape, dtype=np.int64)))
