"""Values to Flower records and back; with `packing` and `outline` the only rooms of the federation that know Flower.

Whatever is not named here cannot leave a site: replies are built from `Member`, `SiteUpdate` and `FinalScalars` alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation.contract import ModalityContract, load_contract
from cdtl_core.federation.coordinator import Member
from cdtl_core.federation.packing import arrays_of, pack
from cdtl_core.federation.site import RoundOrder, SiteUpdate
from cdtl_core.learning.weights import Weights

__all__ = [
    "FinalScalars",
    "Introduction",
    "decode_final",
    "decode_introduction",
    "decode_order",
    "decode_theta0",
    "decode_update",
    "encode_final",
    "encode_introduction",
    "encode_order",
    "encode_theta0",
    "encode_update",
    "num_bytes",
    "theta0_bytes",
]

_T = TypeVar("_T")
_UPDATE_METRICS = ("val_loss", "val_auroc", "train_loss")
_FINAL_METRICS = ("test_auroc", "test_auroc_low", "test_auroc_high")
_CHOICES = ("blended", "unblended", "alone")


@dataclass(frozen=True)
class Introduction:
    """How a site introduces itself: who it is, the hash of the theta0 it has (empty: none), and its contract."""

    member: Member
    theta0_hash: str
    contract: ModalityContract


@dataclass(frozen=True)
class FinalScalars:
    """What a site says of its final model: its test AUROC with interval, and the gate's choice; nothing if private."""

    metrics: Mapping[str, float]
    chosen: str


def encode_introduction(value: Introduction) -> RecordDict:
    """The answer to `query.describe`."""
    member = value.member
    fields = {"site": member.site, "modality": member.modality, "label_hash": member.label_hash}
    counts = {"num_patients": member.num_patients}
    if member.ledger:
        counts["reservations"] = member.reservations
        fields["ledger"] = member.ledger
    fields["contract"] = value.contract.model_dump_json()
    return RecordDict({"site": ConfigRecord({**fields, **counts, **_filled("theta0_hash", value.theta0_hash)})})


def decode_introduction(content: RecordDict) -> Introduction:
    """Read the answer to `query.describe`.

    Raises:
        FederationError: It is malformed.
    """
    record = _config(content, "site")
    site, modality, label_hash = (_typed(record, name, str) for name in ("site", "modality", "label_hash"))
    num_patients = _typed(record, "num_patients", int)
    try:
        contract = load_contract(_typed(record, "contract", str), "of a site")
    except DataError as error:
        raise FederationError(f"a site introduces itself wrongly: {error}") from None
    if (contract.site, contract.modality) != (site, modality):
        raise FederationError("a site's contract is another site's or modality's: enrol it anew.")
    member = Member(site, modality, num_patients, label_hash)
    if ledger := _optional(record, "ledger"):
        member = replace(member, ledger=ledger, reservations=_typed(record, "reservations", int))
    return Introduction(member, _optional(record, "theta0_hash"), contract)


def encode_theta0(theta0: Weights) -> Mapping[str, ArrayRecord | ConfigRecord]:
    """theta0 as float32 arrays, once per site: records to add to a message."""
    return pack("theta0", _arrays(theta0))


def decode_theta0(content: RecordDict) -> Weights | None:
    """theta0 if the message carries it."""
    return _weights(content, "theta0") if "theta0" in content else None


def encode_order(orders: Mapping[str, RoundOrder], theta0_hash: str, baseline: str = "") -> RecordDict:
    """What the server asks of a site: one order to train (``blended``), or the candidates at the end of a run.

    Args:
        orders: Candidate name to order.
        theta0_hash: Of the weights that the drifts add to.
        baseline: The federation whose model the site compares with at the end, if it took part in it.
    """
    any_order = orders["blended"]
    head = {"round": any_order.round, "share_head": any_order.share_head}
    record = RecordDict({"order": ConfigRecord({**head, "theta0_hash": theta0_hash, **_filled("baseline", baseline)})})
    for name, order in orders.items():
        record.update(pack(f"drift.{name}", _arrays(order.drift)))
    return record


def decode_order(content: RecordDict) -> tuple[dict[str, RoundOrder], str, str]:
    """Orders by candidate, hash of theta0, baseline federation.

    Raises:
        FederationError: The message is malformed.
    """
    record = _config(content, "order")
    round, share = _typed(record, "round", int), _typed(record, "share_head", bool)
    names = [key.removeprefix("drift.") for key in content.array_records if key.startswith("drift.")]
    orders = {name: RoundOrder(round, _weights(content, f"drift.{name}"), share) for name in names}
    if "blended" not in orders:
        raise FederationError("the server's message holds no weights: use the same cdtl version at server and site.")
    return orders, _typed(record, "theta0_hash", str), _optional(record, "baseline")


def encode_update(update: SiteUpdate) -> RecordDict:
    """The reply to `train`."""
    if update.private:
        metrics = MetricRecord({"round": update.round, "spent": int(update.spent)})
    else:
        values = {name: float(update.metrics[name]) for name in _UPDATE_METRICS}
        metrics = MetricRecord({"round": update.round, **values})
    return RecordDict({**pack("delta", _arrays(update.delta)), "metrics": metrics})


def decode_update(content: RecordDict, site: str, expected: Mapping[str, torch.Size]) -> SiteUpdate:
    """Read the reply to `train`.

    Args:
        content: The reply.
        site: Who sent it, as the server knows it.
        expected: Names and shapes of what it may hold; a dimension of -1 is free.

    Raises:
        FederationError: It is malformed, or holds a tensor that the federation does not share.
    """
    record = content.metric_records.get("metrics")
    if record is None or "delta" not in content.array_records:
        raise FederationError("its reply lacks delta or metrics: use the same cdtl version at server and site.")
    delta = _weights(content, "delta")
    for name, value in delta.items():
        if value.dtype != torch.float16 or not _fits(value.shape, expected.get(name)):
            raise FederationError(f"its reply holds '{name}' with an unexpected name, shape or type: leave it out.")
    private = "spent" in record
    values = _numbers(record, ("round", *(("spent",) if private else _UPDATE_METRICS)))
    round, spent = values.pop("round"), bool(values.pop("spent", 0))
    if not round.is_integer():
        raise FederationError("its reply is of no round: use the same cdtl version at server and site.")
    return SiteUpdate(site, int(round), delta, values, private=private, spent=spent)


def encode_final(value: FinalScalars) -> RecordDict:
    """The reply to `evaluate`; of a site with differential privacy only that it has its model."""
    if not value.chosen:
        return RecordDict({"final": MetricRecord({"kept": 1})})
    metrics = {name: float(value.metrics[name]) for name in _FINAL_METRICS}
    return RecordDict({"final": MetricRecord({**metrics, "chosen": _CHOICES.index(value.chosen)})})


def decode_final(content: RecordDict) -> FinalScalars:
    """Read the reply to `evaluate`.

    Raises:
        FederationError: It is malformed.
    """
    record = content.metric_records.get("final")
    if record is not None and set(record) == {"kept"}:
        return FinalScalars({}, "")
    record = record or MetricRecord()
    values, index = _numbers(record, (*_FINAL_METRICS, "chosen")), record["chosen"]
    if not isinstance(index, int) or not 0 <= index < len(_CHOICES):
        raise FederationError("its final reply names no known choice: use the same cdtl version at server and site.")
    return FinalScalars({name: values[name] for name in _FINAL_METRICS}, _CHOICES[index])


def num_bytes(content: RecordDict) -> int:
    """Bytes of all records of a message, as Flower counts them."""
    return sum(record.count_bytes() for record in content.values())


def theta0_bytes(content: RecordDict) -> int:
    """Of these, theta0's: its pack and the pack's index."""
    return sum(record.count_bytes() for key, record in content.items() if key.partition(".")[0] == "theta0")


def _numbers(record: MetricRecord, names: Iterable[str]) -> dict[str, float]:
    found = {name: record.get(name) for name in names}
    if not all(isinstance(value, int | float) for value in found.values()):
        raise FederationError("its reply lacks a number: use the same cdtl version at server and site.")
    return {name: float(value) for name, value in found.items()}  # type: ignore[arg-type]


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


def _config(content: RecordDict, key: str) -> ConfigRecord:
    record = content.config_records.get(key)
    if record is None:
        raise FederationError(f"a message lacks '{key}': use the same cdtl version at server and site.")
    return record


def _filled(name: str, value: str) -> dict[str, str]:
    """Flower 1.41 cannot count the bytes of an empty string: leave it out."""
    return {name: value} if value else {}


def _optional(record: ConfigRecord, name: str) -> str:
    return _typed(record, name, str) if name in record else ""


def _typed(record: ConfigRecord, name: str, kind: type[_T]) -> _T:
    value = record.get(name)
    if not isinstance(value, kind):
        raise FederationError(f"a message lacks '{name}': use the same cdtl version at server and site.")
    return value
