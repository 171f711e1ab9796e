"""Converts values to Flower records and back.

Only fields named here can leave a site: replies are built from `Member`, `SiteUpdate` and `FinalScalars` only. Of the
federation, only this module and `packing` know Flower.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from cdtl_core.config.schema import (
    FinalNumbers,
    Hello,
    KeptNumbers,
    Order,
    Patients,
    PrivateNumbers,
    Question,
    UpdateNumbers,
    bounded,
    parsed,
)
from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation.contract import ModalityContract, load_contract
from cdtl_core.federation.model_selection import JOINT, OWN, POOL
from cdtl_core.federation.packing import arrays_of, pack, records_of
from cdtl_core.federation.site import RoundOrder, SiteUpdate
from cdtl_core.federation.state import HeadSum, Member
from cdtl_core.models.weights import Weights, check_finite
from cdtl_core.system.foreign import visible

__all__ = ["FinalScalars", "Introduction", "decode_final", "decode_heads", "decode_initial_weights"]
__all__ += ["decode_introduction", "decode_order", "decode_question", "decode_update", "encode_final"]
__all__ += ["encode_heads", "encode_initial_weights", "encode_introduction", "encode_order", "encode_question"]
__all__ += ["encode_update", "initial_weights_bytes", "num_bytes"]

_Record = TypeVar("_Record", ConfigRecord, MetricRecord)
_CHOICES = (POOL, OWN, JOINT)
_WEIGHTS, _OWN_HEAD, _HEADS = "offset", "own", "heads."


@dataclass(frozen=True)
class Introduction:
    """A site's introduction: its identity, whether it holds the run's initial weights, and its contract."""

    member: Member
    holds_initial_weights: bool
    contract: ModalityContract


@dataclass(frozen=True)
class FinalScalars:
    """Figures of a site's final model: its test AUROC with interval, and which model it uses; empty if private."""

    metrics: Mapping[str, float]
    chosen: str


def encode_question(initial_weights_hash: str) -> RecordDict:
    """Return `query.describe`: the coordinator's description of the run before a site introduces itself."""
    return RecordDict({"question": ConfigRecord({"initial_weights_hash": initial_weights_hash})})


def decode_question(content: RecordDict) -> str:
    """Return the hash of the run's initial weights.

    Raises:
        FederationError: The message is malformed.
    """
    return parsed(Question, _record(records_of(content, ConfigRecord), "question")).initial_weights_hash


def encode_introduction(value: Introduction) -> RecordDict:
    """Return the answer to `query.describe`."""
    member = value.member
    fields = {"site": member.site, "modality": member.modality, "label_hash": member.label_hash}
    counts: dict[str, int] = {"num_patients": member.num_patients}
    if member.ledger:
        counts["reservations"] = member.reservations
        fields["ledger"] = member.ledger
    fields["contract"] = value.contract.model_dump_json()
    return RecordDict(
        {"site": ConfigRecord({**fields, **counts, "holds_initial_weights": value.holds_initial_weights})}
    )


def decode_introduction(content: RecordDict) -> Introduction:
    """Read the answer to `query.describe`.

    Raises:
        FederationError: It is malformed.
    """
    hello = parsed(Hello, _record(records_of(content, ConfigRecord), "site"))
    try:
        contract = load_contract(hello.contract, "of a site")
    except DataError as error:
        raise FederationError(f"the site's introduction is malformed: {error}") from None
    if (contract.site, contract.modality) != (hello.site, hello.modality):
        raise FederationError("a site's contract belongs to another site or modality: enrol the site again.")
    member = Member(hello.site, hello.modality, hello.num_patients, hello.label_hash, hello.ledger, hello.reservations)
    return Introduction(member, hello.holds_initial_weights, contract)


def encode_initial_weights(initial_weights: Weights) -> Mapping[str, ArrayRecord | ConfigRecord]:
    """Return the initial weights as float32 arrays, sent once per site: records to add to a message."""
    return pack("initial_weights", _arrays(initial_weights))


def decode_initial_weights(content: RecordDict) -> Weights | None:
    """Return the initial weights if the message carries them."""
    return _weights(content, "initial_weights") if "initial_weights" in content else None


def encode_order(order: RoundOrder, initial_weights_hash: str) -> RecordDict:
    """Return the server's order: train one round, or take over the joint model at the end of a run.

    Args:
        order: The round and the weights.
        initial_weights_hash: SHA-256 of the weights that the offset adds to.
    """
    head = ConfigRecord(
        {"round": order.round, "share_head": order.share_head, "initial_weights_hash": initial_weights_hash}
    )
    return RecordDict({"order": head, **pack(_WEIGHTS, _arrays(order.offset))})


def encode_heads(heads: Mapping[str, HeadSum], member: Member) -> Mapping[str, ArrayRecord | ConfigRecord]:
    """Return sums of own heads of the member's label map, by modality, for the last message; empty without any."""
    records: dict[str, ArrayRecord | ConfigRecord] = {}
    counts: dict[str, int] = {}
    prefix = f"head.{member.label_hash}."
    for modality, one in heads.items():
        if count := one.patients.get(member.label_hash, 0):
            total = {name: value for name, value in one.total.items() if name.startswith(prefix)}
            records.update(pack(f"{_HEADS}{modality}", _arrays(total)))
            counts[modality] = count
    own = next((one.sites[member.site] for one in heads.values() if member.site in one.sites), 0)
    if counts:
        records["patients"] = ConfigRecord({**counts, "own": own})
    return records


def decode_heads(content: RecordDict) -> tuple[dict[str, tuple[Weights, int]], int]:
    """Return modality to sum of own heads and its patients, and the site's own patients in its sum.

    Raises:
        FederationError: The message is malformed.
    """
    if "patients" not in records_of(content, ConfigRecord):
        return {}, 0
    told = records_of(content, ConfigRecord)["patients"]
    counts = {name: parsed(Patients, {"count": value}).count for name, value in told.items()}
    own = counts.pop("own", 0)
    return {modality: (_weights(content, f"{_HEADS}{modality}"), count) for modality, count in counts.items()}, own


def decode_order(content: RecordDict, rounds: int) -> tuple[RoundOrder, str]:
    """Return the order, and the hash of the initial weights.

    Args:
        content: The message.
        rounds: The last round of the run.

    Raises:
        FederationError: The message is malformed, or asks for a round that the run does not have.
    """
    order = parsed(Order, _record(records_of(content, ConfigRecord), "order"))
    if order.round > rounds:
        raise FederationError(
            f"the server asks for round {order.round}, but the run ends with {rounds}: start it again."
        )
    if _WEIGHTS not in records_of(content, ArrayRecord):
        raise FederationError("the server's message lacks weights: use the same cdtl version at server and site.")
    return RoundOrder(order.round, _weights(content, _WEIGHTS), order.share_head), order.initial_weights_hash


def encode_update(update: SiteUpdate) -> RecordDict:
    """Return the reply to `train`."""
    numbers = {"spent": int(update.spent)} if update.private else bounded(UpdateNumbers, update.metrics)
    metrics = MetricRecord({"round": update.round, **numbers})
    own = pack(_OWN_HEAD, _arrays(update.own)) if update.own else {}
    return RecordDict({**pack("delta", _arrays(update.delta)), **own, "metrics": metrics})


def decode_update(
    content: RecordDict,
    site: str,
    expected: Mapping[str, torch.Size],
    round: int,
    own_head: Mapping[str, torch.Size] | None = None,
) -> SiteUpdate:
    """Read the reply to `train`.

    Args:
        content: The reply.
        site: Sender, as the server knows it.
        expected: Names and shapes of its allowed tensors; a dimension of -1 is free.
        round: The requested round.
        own_head: Names and shapes of the site's own head, if it may be in the reply.

    Raises:
        FederationError: It is malformed, for another round, or holds a tensor that the federation does not share.
    """
    record, delta = _record(records_of(content, MetricRecord), "metrics"), _weights(content, "delta")
    own = _weights(content, _OWN_HEAD) if _OWN_HEAD in records_of(content, ArrayRecord) else {}
    _check_tensors(delta, expected)
    _check_tensors(own, own_head or {})
    check_finite(own, "its own head")
    private = "spent" in record
    numbers = parsed(PrivateNumbers, record) if private else parsed(UpdateNumbers, record)
    if numbers.round != round:
        raise FederationError(f"its reply is for round {numbers.round}, but round {round} was requested.")
    values = numbers.model_dump(exclude={"round", "spent"})
    spent = isinstance(numbers, PrivateNumbers) and bool(numbers.spent)
    return SiteUpdate(site, numbers.round, delta, values, private=private, spent=spent, own=own)


def _check_tensors(found: Weights, expected: Mapping[str, torch.Size]) -> None:
    for name, value in found.items():
        if value.dtype != torch.float16 or not _fits(value.shape, expected.get(name)):
            raise FederationError(
                f"its reply holds '{visible(name, 96)}' with an unexpected name, shape or type: remove it."
            )


def encode_final(value: FinalScalars) -> RecordDict:
    """Return the reply to `evaluate`; for a site with differential privacy only that it has its model."""
    if not value.chosen:
        return RecordDict({"final": MetricRecord({"kept": 1})})
    numbers = bounded(FinalNumbers, value.metrics)
    return RecordDict({"final": MetricRecord({**numbers, "chosen": _CHOICES.index(value.chosen)})})


def decode_final(content: RecordDict) -> FinalScalars:
    """Read the reply to `evaluate`.

    Raises:
        FederationError: It is malformed.
    """
    record = _record(records_of(content, MetricRecord), "final")
    if "kept" in record:
        parsed(KeptNumbers, record)
        return FinalScalars({}, "")
    numbers = parsed(FinalNumbers, record)
    return FinalScalars(numbers.model_dump(exclude={"chosen"}), _CHOICES[numbers.chosen])


def num_bytes(content: RecordDict) -> int:
    """Return the bytes of all records of a message, as Flower counts them."""
    return sum(record.count_bytes() for record in content.values())


def initial_weights_bytes(content: RecordDict) -> int:
    """Return the bytes of the initial weights among them: their pack and its index."""
    return sum(record.count_bytes() for key, record in content.items() if key.partition(".")[0] == "initial_weights")


def _fits(shape: torch.Size, expected: torch.Size | None) -> bool:
    if expected is None or len(shape) != len(expected):
        return False
    return all(wanted in (-1, got) for got, wanted in zip(shape, expected, strict=True))


def _arrays(weights: Weights) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in weights.items()}


def _weights(content: RecordDict, key: str) -> Weights:
    """Return the tensors of a record, which are the bytes of the message: they must not be written to."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return {name: torch.from_numpy(array) for name, array in arrays_of(content, key).items()}
    except (KeyError, ValueError, TypeError) as error:
        raise FederationError(f"the record '{key}' of a message cannot be read ({type(error).__name__}).") from None


def _record(records: Mapping[str, _Record], key: str) -> _Record:
    record = records.get(key)
    if record is None:
        raise FederationError(f"a message lacks '{key}': use the same cdtl version at server and site.")
    return record
