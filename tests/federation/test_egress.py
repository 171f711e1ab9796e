"""The egress list matches real replies, and refuses everything else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from cdtl_core.config import Method, SimulationConfig
from cdtl_core.errors import PrivacyError
from cdtl_core.federation.egress import EgressManifest, Number, ReplyRule, Tensor, Text, egress_hash, egress_manifest
from cdtl_core.federation.egress_check import Outline, check_outline
from cdtl_core.federation.packing import encoded_again, outline, unpacked
from tests.conftest import Played, Run

Tiny = Callable[..., SimulationConfig]

WEIGHT = Tensor(dtype="float16", shape=(2, 3), bytes=140)
NUMBERS = {"round": Number(type="int", low=1, high=3), "loss": Number(type="float", high=10)}
SMALL = EgressManifest(
    site="alba",
    modality="ultrasound",
    labels=("benign", "malignant"),
    positive="malignant",
    replies={
        "train": ReplyRule(
            arrays={"delta": {"backbone.w": WEIGHT}},
            metrics={"metrics": NUMBERS},
        ),
        "query.describe": ReplyRule(
            configs={"site": {"site": Text(exact="alba"), "hash": Text(pattern="[0-9a-f]{4}")}}
        ),
    },
)
NPY = Array(np.zeros(1, np.float16)).data
GOOD = Outline({"delta": {"backbone.w": WEIGHT}}, {"metrics": {"round": 1, "loss": 0.5}})


def replies_of(run: Run) -> list[tuple[str, Message]]:
    """Every reply of the first site, under its message's type."""
    return [(r.metadata.message_type, r) for _, r in run.messages if r.metadata.src_node_id == 101]


@pytest.mark.parametrize(("method", "head"), [("alone", True), ("fedbn", True), ("cdtl", True), ("cdtl", False)])
def test_the_list_is_what_real_replies_hold(tiny: Tiny, played: Played, method: Method, head: bool) -> None:
    config = tiny(methods=(method,), share={"head": head})
    replies = replies_of(played(config))
    manifest = egress_manifest(config.of_method(method), site="alba", modality="ultrasound")
    assert {kind for kind, _ in replies} == set(manifest.replies)
    for kind, reply in replies:
        held, rule = outline(unpacked(reply.content)), manifest.replies[kind]
        assert check_outline(manifest, kind, held) == ""
        assert check_outline(manifest, kind, outline(encoded_again(unpacked(reply.content)))) == ""
        assert held.arrays == rule.arrays
        assert held.metrics.keys() == rule.metrics.keys()
        unknown = {
            "val_auroc",
            "test_auroc",
            "test_auroc_low",
            "test_auroc_high",
        }
        assert {name for key in rule.metrics for name in set(rule.metrics[key]) - set(held.metrics[key])} <= unknown
        assert {key: set(record) for key, record in held.configs.items()} == {
            k: set(v) for k, v in rule.configs.items()
        }
    assert any(name.startswith("head.") for name in manifest.replies["train"].arrays["delta"]) == (
        head and method != "alone"
    )


def test_another_hospitals_contract_is_refused(tiny: Tiny, played: Played) -> None:
    replies = replies_of(played(tiny()))
    content = outline(next(reply for kind, reply in replies if kind == "query.describe").content).configs["site"]
    manifest = egress_manifest(tiny().run, site="alba", modality="ultrasound")
    spaced = {**content, "contract": content["contract"].replace(",", ", ", 1)}
    foreign = {**content, "contract": content["contract"].replace("alba", "como")}
    for altered in (spaced, foreign, {**content, "contract": "a diary"}, {**content, "site": "como"}):
        assert "differs from the egress list" in check_outline(
            manifest, "query.describe", Outline(configs={"site": altered})
        )


def test_ranges_are_plain_numbers() -> None:
    assert str(Number(type="int", low=1, high=1e7)) == "1 to 10,000,000"
    assert str(Number(type="float", low=-0.25, high=1e-6)) == "-0.25 to 0.000001"


def test_a_list_survives_its_json_and_has_one_hash() -> None:
    again = EgressManifest.model_validate_json(SMALL.model_dump_json())
    assert egress_hash(again) == egress_hash(SMALL)
    assert egress_hash(SMALL.model_copy(update={"site": "como"})) != egress_hash(SMALL)
    with pytest.raises(ValueError, match="extra"):
        EgressManifest.model_validate({**SMALL.model_dump(), "also": 1})


def test_a_subset_may_leave() -> None:
    assert check_outline(SMALL, "train", GOOD) == ""
    assert check_outline(SMALL, "train", Outline({"delta": {}}, {"metrics": {"round": 3}})) == ""


names = st.text(min_size=1, max_size=12)
numbers = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.lists(st.floats(), max_size=2), st.text(), st.binary()
)


@given(record=names, name=names)
def test_any_further_tensor_is_refused(record: str, name: str) -> None:
    held = {**GOOD.arrays, record: {**GOOD.arrays.get(record, {}), name: WEIGHT}}
    allowed = record == "delta" and name == "backbone.w"
    assert bool(check_outline(SMALL, "train", replace(GOOD, arrays=held))) is not allowed


@given(
    dtype=st.sampled_from(["float16", "float32", "int64", "object", ""]),
    shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    size=st.integers(0, 300),
)
def test_any_other_type_shape_or_size_is_refused(dtype: str, shape: tuple[int, ...], size: int) -> None:
    tensor = Tensor(dtype=dtype, shape=shape, bytes=size)
    held = replace(GOOD, arrays={"delta": {"backbone.w": tensor}})
    assert (check_outline(SMALL, "train", held) == "") is (tensor == WEIGHT)


@given(record=names, name=names, value=numbers)
def test_any_further_number_or_text_is_refused(record: str, name: str, value: Any) -> None:
    assert check_outline(SMALL, "train", replace(GOOD, configs={record: {name: value}}))
    if (record, name) not in {("metrics", "round"), ("metrics", "loss")}:
        assert check_outline(SMALL, "train", replace(GOOD, metrics={**GOOD.metrics, record: {name: value}}))


@given(value=numbers)
def test_a_number_keeps_its_kind_and_a_text_its_form(value: Any) -> None:
    held = replace(GOOD, metrics={"metrics": {"round": value}})
    assert (check_outline(SMALL, "train", held) == "") is (type(value) is int and 1 <= value <= 3)
    told = Outline(configs={"site": {"hash": value}})
    assert (check_outline(SMALL, "query.describe", told) == "") is (value == "0000")


@given(kind=names)
def test_a_type_of_message_that_is_not_listed_has_no_reply(kind: str) -> None:
    assert kind in SMALL.replies or check_outline(SMALL, kind, Outline())


@pytest.mark.parametrize("kind", ["arrays", "metrics", "configs"])
def test_an_empty_record_that_is_not_listed_is_refused(kind: str) -> None:
    assert "'diary'" in check_outline(SMALL, "train", Outline(**{kind: {"diary": {}}}))


def test_what_is_encoded_again_has_no_room_beside_the_values() -> None:
    array = Array(np.arange(6, dtype=np.float16).reshape(2, 3))
    assert outline(RecordDict({"delta": ArrayRecord({"w": array})})).arrays["delta"]["w"] == WEIGHT
    header = array.data[:128].replace(b" " * 20, b"#a patient's name   ", 1)
    stuffed = Array("float16", (2, 3), "numpy.ndarray", header[:127] + b"\n" + array.data[128:])
    assert stuffed.data != array.data
    clean = encoded_again(
        RecordDict({"delta": ArrayRecord({"w": stuffed}), "m": MetricRecord({"a": 1}), "c": ConfigRecord({"b": True})})
    )
    assert clean["delta"]["w"].data == array.data  # type: ignore[index]
    assert (dict(clean["m"]), dict(clean["c"])) == ({"a": 1}, {"b": True})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 not an archive", b"\x93NUMPY\x01\x00\x76\x00{}", b"pickle", NPY + b"x"]
)
def test_a_tensor_that_is_no_array_is_refused(data: bytes) -> None:
    with pytest.raises(PrivacyError, match="nothing of it leaves"):
        encoded_again(RecordDict({"delta": ArrayRecord({"w": Array("float16", (1,), "numpy.ndarray", data)})}))
