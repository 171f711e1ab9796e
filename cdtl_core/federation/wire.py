"""Values to Flower records and back; with `packing` and `outline` the only rooms of the federation that know Flower.

Whatever is not named here cannot leave a site: replies are built from `Member`, `SiteUpdate` and `FinalScalars` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation.contract import ModalityContract, load_contract
from cdtl_core.federation.coordinator import Member
from cdtl_core.federation.packing import arrays_of, pack
from cdtl_core.federation.site import RoundOrder, SiteUpdate
from cdtl_core.foreign import visible
from cdtl_core.learning.weights import Weights
from cdtl_core.schema import (
    FinalNumbers,
    Hello,
    KeptNumbers,
    Order,
    PrivateNumbers,
    Question,
    UpdateNumbers,
    bounded,
    parsed,
)

__all__ = [
    "FinalScalars",
    "Introduction",
    "decode_final",
    "decode_introduction",
    "decode_order",
    "decode_question",
    "decode_theta0",
    "decode_update",
    "encode_final",
    "encode_introduction",
    "encode_order",
    "encode_question",
    "encode_theta0",
    "encode_update",
    "num_bytes",
    "theta0_bytes",
]

_Record = TypeVar("_Record", ConfigRecord, MetricRecord)
_CHOICES = ("blended", "unblended", "alone")


@dataclass(frozen=True)
class Introduction:
    """How a site introduces itself: who it is, whether it holds the run's theta0, and its contract."""

    member: Member
    holds_theta0: bool
    contract: ModalityContract


@dataclass(frozen=True)
class FinalScalars:
    """What a site says of its final model: its test AUROC with interval, and the gate's choice; nothing if private."""

    metrics: Mapping[str, float]
    chosen: str


def encode_question(theta0_hash: str) -> RecordDict:
    """`query.describe`: what the coordinator says of the run before a site introduces itself."""
    return RecordDict({"question": ConfigRecord({"theta0_hash": theta0_hash})})


def decode_question(content: RecordDict) -> str:
    """The hash of the run's theta0.

    Raises:
        FederationError: The message is malformed.
    """
    return parsed(Question, _record(content.config_records, "question")).theta0_hash


def encode_introduction(value: Introduction) -> RecordDict:
    """The answer to `query.describe`."""
    member = value.member
    fields = {"site": member.site, "modality": member.modality, "label_hash": member.label_hash}
    counts: dict[str, int] = {"num_patients": member.num_patients}
    if member.ledger:
        counts["reservations"] = member.reservations
        fields["ledger"] = member.ledger
    fields["contract"] = value.contract.model_dump_json()
    return RecordDict({"site": ConfigRecord({**fields, **counts, "holds_theta0": value.holds_theta0})})


def decode_introduction(content: RecordDict) -> Introduction:
    """Read the answer to `query.describe`.

    Raises:
        FederationError: It is malformed.
    """
    hello = parsed(Hello, _record(content.config_records, "site"))
    try:
        contract = load_contract(hello.contract, "of a site")
    except DataError as error:
        raise FederationError(f"the site's introduction is malformed: {error}") from None
    if (contract.site, contract.modality) != (hello.site, hello.modality):
        raise FederationError("a site's contract is another site's or modality's: enrol it again.")
    member = Member(hello.site, hello.modality, hello.num_patients, hello.label_hash, hello.ledger, hello.reservations)
    return Introduction(member, hello.holds_theta0, contract)


def encode_theta0(theta0: Weights) -> Mapping[str, ArrayRecord | ConfigRecord]:
    """theta0 as float32 arrays, once per site: records to add to a message."""
    return pack("theta0", _arrays(theta0))


def decode_theta0(content: RecordDict) -> Weights | None:
    """theta0 if the message carries it."""
    return _weights(content, "theta0") if "theta0" in content else None


def encode_order(orders: Mapping[str, RoundOrder], theta0_hash: str) -> RecordDict:
    """What the server asks of a site: one order to train (``blended``), or the candidates at the end of a run.

    Args:
        orders: Candidate name to order.
        theta0_hash: Of the weights that the drifts add to.
    """
    first = orders["blended"]
    head = ConfigRecord({"round": first.round, "share_head": first.share_head, "theta0_hash": theta0_hash})
    record = RecordDict({"order": head})
    for name, order in orders.items():
        record.update(pack(f"drift.{name}", _arrays(order.drift)))
    return record


def decode_order(content: RecordDict, rounds: int) -> tuple[dict[str, RoundOrder], str]:
    """Orders by candidate, and the hash of theta0.

    Args:
        content: The message.
        rounds: The last round that may be asked for.

    Raises:
        FederationError: The message is malformed, or asks for a round that the run does not have.
    """
    order = parsed(Order, _record(content.config_records, "order"))
    if order.round > rounds:
        raise FederationError(f"the server asks for round {order.round}, the run ends with {rounds}: start it again.")
    found = {key.removeprefix("drift."): key for key in content.array_records if key.startswith("drift.")}
    if "blended" not in found or not found.keys() <= set(_CHOICES):
        raise FederationError("the server's message lacks weights, or holds unknown ones: use the same cdtl version.")
    orders = {name: RoundOrder(order.round, _weights(content, key), order.share_head) for name, key in found.items()}
    return orders, order.theta0_hash


def encode_update(update: SiteUpdate) -> RecordDict:
    """The reply to `train`."""
    numbers = {"spent": int(update.spent)} if update.private else bounded(UpdateNumbers, update.metrics)
    metrics = MetricRecord({"round": update.round, **numbers})
    return RecordDict({**pack("delta", _arrays(update.delta)), "metrics": metrics})


def decode_update(content: RecordDict, site: str, expected: Mapping[str, torch.Size], round: int) -> SiteUpdate:
    """Read the reply to `train`.

    Args:
        content: The reply.
        site: Who sent it, as the server knows it.
        expected: Names and shapes of what it may hold; a dimension of -1 is free.
        round: That was asked for.

    Raises:
        FederationError: It is malformed, of another round, or holds a tensor that the federation does not share.
    """
    record, delta = _record(content.metric_records, "metrics"), _weights(content, "delta")
    for name, value in delta.items():
        if value.dtype != torch.float16 or not _fits(value.shape, expected.get(name)):
            raise FederationError(
                f"its reply holds '{visible(name, 96)}' with an unexpected name, shape or type: leave it out."
            )
    private = "spent" in record
    numbers = parsed(PrivateNumbers, record) if private else parsed(UpdateNumbers, record)
    if numbers.round != round:
        raise FederationError(f"its reply is of round {numbers.round}, round {round} was asked for.")
    values = numbers.model_dump(exclude={"round", "spent"})
    spent = isinstance(numbers, PrivateNumbers) and bool(numbers.spent)
    return SiteUpdate(site, numbers.round, delta, values, private=private, spent=spent)


def encode_final(value: FinalScalars) -> RecordDict:
    """The reply to `evaluate`; of a site with differential privacy only that it has its model."""
    if not value.chosen:
        return RecordDict({"final": MetricRecord({"kept": 1})})
    numbers = bounded(FinalNumbers, value.metrics)
    return RecordDict({"final": MetricRecord({**numbers, "chosen": _CHOICES.index(value.chosen)})})


def decode_final(content: RecordDict) -> FinalScalars:
    """Read the reply to `evaluate`.

    Raises:
        FederationError: It is malformed.
    """
    record = _record(content.metric_records, "final")
    if "kept" in record:
        parsed(KeptNumbers, record)
        return FinalScalars({}, "")
    numbers = parsed(FinalNumbers, record)
    return FinalScalars(numbers.model_dump(exclude={"chosen"}), _CHOICES[numbers.chosen])


def num_bytes(content: RecordDict) -> int:
    """Bytes of all records of a message, as Flower counts them."""
    return sum(record.count_bytes() for record in content.values())


def theta0_bytes(content: RecordDict) -> int:
    """Of these, theta0's: its pack and the pack's index."""
    return sum(record.count_bytes() for key, record in content.items() if key.partition(".")[0] == "theta0")


def _fits(shape: torch.Size, expected: torch.Size | None) -> bool:
    if expected is None or len(shape) != len(expected):
        return False
    return all(wanted in (-1, got) for got, wanted in zip(shape, expected, strict=True))


def _arrays(weights: Weights) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in weights.items()}


def _weights(content: RecordDict, key: str) -> Weights:
    try:
        return {name: torch.from_numpy(array) for name, array in arrays_of(content, key).items()}
    except (KeyError, ValueError, TypeError) as error:
        raise FederationError(f"the record '{key}' of a message cannot be read ({type(error).__name__}).") from None


def _record(records: Mapping[str, _Record], key: str) -> _Record:
    record = records.get(key)
    if record is None:
        raise FederationError(f"a message lacks '{key}': use the same cdtl version at server and site.")
    return record
