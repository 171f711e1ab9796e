"""Hostile replies of approved code: values out of range, free text and other facts stay at the site."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from cdtl_core.config import RunConfig
from cdtl_core.deploy.egress_filter.asks import Ask
from cdtl_core.deploy.egress_filter.judge import judge
from cdtl_core.errors import FederationError
from cdtl_core.federation import wire
from cdtl_core.federation.contract import ModalityContract, label_hash
from cdtl_core.federation.egress import EgressManifest, egress_manifest
from cdtl_core.federation.egress_check import Own
from tests.tables import Tries

MODEL = {"backbone": "test_efficientnet", "weights": "random"}
PLAIN = RunConfig.model_validate({"image": {"size": 32}, "model": MODEL, "federation": {"rounds": 2}})
SECRET = PLAIN.model_copy(update={"dp": PLAIN.dp.model_copy(update={"enabled": True})})
LABELS = PLAIN.task.labels
CONTRACT = ModalityContract(
    site="north", modality="ultrasound", labels=LABELS, positive="malignant", label_map={"B": "benign"}, channels=1,
    bit_depth=8, patients=40,
)  # fmt: skip
OWN = Own(2, CONTRACT.model_dump_json(), "a" * 32, 3)
ASK = Ask(
    run_id=1, message_id="0" * 64, src_node_id=1, dst_node_id=5, group_id="2", message_type="train", created_at=0.0,
    ttl=60.0,
)  # fmt: skip
TRAIN = {"round": 2, "val_loss": 0.5, "val_auroc": 0.75, "train_loss": 0.25}
FINAL = {"test_auroc": 0.75, "test_auroc_low": 0.5, "test_auroc_high": 1.0, "chosen": 2}
HELLO = {
    "site": "north", "modality": "ultrasound", "label_hash": label_hash(LABELS), "contract": OWN.contract,
    "num_patients": 44, "holds_initial_weights": True,
}  # fmt: skip
HELLO_SECRET = {**HELLO, "ledger": OWN.ledger, "reservations": 3}
EDGES = (float("nan"), float("inf"), -float("inf"), -1.0, -5e-324, 1e308, 2.0**63)


def manifest(run: RunConfig) -> EgressManifest:
    return egress_manifest(run, site="north", modality="ultrasound", labels=LABELS)


def reason(run: RunConfig, kind: str, content: RecordDict) -> str:
    """Return why the judge holds a reply back; empty if it leaves."""
    message = ASK.reply(content)
    objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    judged = judge(manifest(run), kind, message.object_id, objects, OWN)
    assert (judged.content is None) == bool(judged.reason)
    return judged.reason


def update(metrics: Mapping[str, Any], run: RunConfig = PLAIN, fill: float = 0.0) -> RecordDict:
    tensors = manifest(run).replies["train"].arrays["delta"]
    delta = {name: Array(np.full(tensor.shape, fill, np.float16)) for name, tensor in tensors.items()}
    return RecordDict({"delta": ArrayRecord(delta), "metrics": MetricRecord(dict(metrics))})


def final(metrics: Mapping[str, Any]) -> RecordDict:
    return RecordDict({"final": MetricRecord(dict(metrics))})


def read_by_server(kind: str, content: RecordDict) -> object:
    if kind == "evaluate":
        return wire.decode_final(content)
    tensors = manifest(PLAIN).replies["train"].arrays["delta"]
    return wire.decode_update(content, "north", {name: torch.Size(one.shape) for name, one in tensors.items()}, 2)


def hello(fields: Mapping[str, Any]) -> RecordDict:
    return RecordDict({"site": ConfigRecord(dict(fields))})


def test_honest_replies_leave() -> None:
    assert reason(PLAIN, "train", update(TRAIN)) == ""
    assert read_by_server("train", update(TRAIN))
    assert read_by_server("evaluate", final(FINAL))
    assert reason(PLAIN, "train", update({"round": 2})) == ""
    assert reason(PLAIN, "evaluate", final(FINAL)) == ""
    assert reason(PLAIN, "query.describe", hello(HELLO)) == ""
    assert reason(SECRET, "train", update({"round": 2, "spent": 0}, SECRET)) == ""
    assert reason(SECRET, "evaluate", final({"kept": 1})) == ""
    assert reason(SECRET, "query.describe", hello(HELLO_SECRET)) == ""


AUROCS = ("test_auroc", "test_auroc_low", "test_auroc_high")
LIES = [
    *(("train", {**TRAIN, name: edge}) for name in ("val_loss", "train_loss", "val_auroc") for edge in EDGES),
    *(("train", {**TRAIN, "val_auroc": value}) for value in (1.0000001, 3.0)),
    *(("train", {**TRAIN, "round": value}) for value in (0, 1, 3, -1, 2**63 - 1, 2.0)),
    *(("evaluate", {**FINAL, name: edge}) for name in AUROCS for edge in EDGES),
    *(("evaluate", {**FINAL, "chosen": value}) for value in (-1, 3, 2**62, 1.0)),
]


@pytest.mark.attack("the egress list bounds values", "numbers as payload, NaN, infinity, wrong round")
def test_numbers_outside_their_ranges_are_held_back(tries: Tries) -> None:
    for kind, metrics in LIES:
        tries.add()
        content = update(metrics) if kind == "train" else final(metrics)
        assert "nothing of this reply leaves" in reason(PLAIN, kind, content), metrics
        with pytest.raises(FederationError, match=r"wrong in|is for round"):
            read_by_server(kind, content)


@pytest.mark.attack("the egress list bounds values", "numbers of a private site as payload")
@pytest.mark.parametrize("metrics", [{"spent": 2}, {"spent": -(2**62)}, {"round": 2**62}, {"val_loss": 0.5}])
def test_a_private_site_has_no_number_to_hide_anything_in(metrics: dict[str, Any]) -> None:
    assert "nothing of this reply leaves" in reason(
        SECRET, "train", update({"round": 2, "spent": 0, **metrics}, SECRET)
    )
    assert "nothing of this reply leaves" in reason(SECRET, "evaluate", final({"kept": 2}))


@pytest.mark.attack("the egress list bounds values", "NaN and infinity in tensors")
@pytest.mark.parametrize("fill", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_held_back(fill: float) -> None:
    assert "not finite" in reason(PLAIN, "train", update(TRAIN, fill=fill))
    one = update(TRAIN, fill=65504.0)
    assert reason(PLAIN, "train", one) == ""


def contract(**fields: Any) -> str:
    return CONTRACT.model_copy(update=fields).model_dump_json()


FACTS: list[tuple[RunConfig, dict[str, Any]]] = [
    (PLAIN, {"contract": contract(label_map={f"Jane Doe, born 1970-01-0{i}": "malignant" for i in range(1, 6)})}),
    (PLAIN, {"contract": contract(patients=50)}),
    (PLAIN, {"contract": contract(bit_depth=9)}),
    (PLAIN, {"contract": contract(label_map={})}),
    (PLAIN, {"contract": contract(initial_weights_hash="0" * 64)}),
    (PLAIN, {"contract": OWN.contract + " "}),
    (PLAIN, {"num_patients": 45}),
    (PLAIN, {"num_patients": 0}),
    (PLAIN, {"num_patients": 2**62}),
    (PLAIN, {"holds_initial_weights": 1}),
    (PLAIN, {"initial_weights_hash": "ab" * 32}),
    (PLAIN, {"ledger": OWN.ledger, "reservations": 3}),
    (SECRET, {"ledger": "b" * 32}),
    (SECRET, {"reservations": 4}),
    (SECRET, {"reservations": -1}),
    (SECRET, {"reservations": 2**62}),
]


@pytest.mark.attack("a reply tells only what enrolment told", "free text, other counts, another ledger")
@pytest.mark.parametrize(("run", "lie"), FACTS)
def test_an_introduction_says_what_the_site_enrolled_with_and_nothing_else(run: RunConfig, lie: dict[str, Any]) -> None:
    told = {**(HELLO_SECRET if run is SECRET else HELLO), **lie}
    assert "nothing of this reply leaves" in reason(run, "query.describe", hello(told))


def test_an_approval_of_an_earlier_version_lets_nothing_out() -> None:
    old = manifest(PLAIN).model_copy(update={"schema_version": 1})
    message = ASK.reply(final(FINAL))
    objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    assert "approve it again" in judge(old, "evaluate", message.object_id, objects, OWN).reason
