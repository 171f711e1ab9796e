"""Packs of tensors: the same values in fewer objects; everything else is refused."""

# mypy: disable-error-code=arg-type

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cdtl_core.federation import wire
from cdtl_core.federation.packing import arrays_of, encoded_again, is_packed, outline, pack, packed, unpacked
from cdtl_core.federation.site import RoundOrder, SiteUpdate

TENSORS = st.dictionaries(
    st.text(max_size=8),
    st.sampled_from([np.float16, np.float32]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))
    ),
    max_size=4,
)


@given(TENSORS)
def test_what_is_packed_comes_out_bit_for_bit_in_order_and_cannot_be_written_to(tensors: dict[str, np.ndarray]) -> None:
    content = RecordDict({**pack("delta", tensors), "m": MetricRecord({"a": 1})})
    for found in (arrays_of(content, "delta"), arrays_of(unpacked(content), "delta")):
        assert list(found) == list(tensors)
        for name, array in found.items():
            assert (array.dtype, array.shape) == (tensors[name].dtype, tensors[name].shape)
            assert array.tobytes() == tensors[name].tobytes()
            assert array.flags.aligned
            assert not array.flags.writeable
    assert set(unpacked(content)) == {"delta", "m"}
    again = packed(unpacked(content), ["delta"])
    assert is_packed(again, "delta") == bool(tensors)
    assert dict(again.items()) == dict(content.items())


@pytest.mark.parametrize(
    "index",
    [
        "no JSON",
        json.dumps([["w", "float16", [3]]]),
        json.dumps([["w", "float16", [2]], ["w", "float16", [0]]]),
        json.dumps([["w", "float16", [-1, -2]]]),
        json.dumps([["w", "float16", [True, 2]]]),
        json.dumps([["w", "object", [2]]]),
        json.dumps([["w", "float16"]]),
        json.dumps(7),
        '[["w","float16",[2]]] ',
    ],
)
def test_a_pack_that_is_not_what_its_index_says_is_refused(index: str) -> None:
    content = RecordDict(pack("delta", {"w": np.zeros(2, np.float16)}))
    content["delta.index"] = ConfigRecord({"tensors": index})
    with pytest.raises((KeyError, TypeError, ValueError)):
        unpacked(content)


def test_an_index_holds_nothing_beside_its_tensors() -> None:
    content = RecordDict(pack("delta", {"w": np.zeros(2, np.float16)}))
    content.config_records["delta.index"]["note"] = "Martha Example"
    with pytest.raises(ValueError, match="unpack"):
        unpacked(content)


def test_a_pack_holds_one_array() -> None:
    content = RecordDict(pack("delta", {"w": np.zeros(2, np.float16)}))
    content["delta"] = ArrayRecord({"packed": Array(np.zeros(4, np.uint8)), "more": Array(np.zeros(4, np.uint8))})
    with pytest.raises(ValueError, match="unpack"):
        unpacked(content)


def test_a_message_is_freed_as_soon_as_it_is_read() -> None:
    """Else a run holds the bytes of many messages until Python looks for garbage."""
    gc.disable()
    try:
        content = RecordDict({**pack("delta", {"w": np.zeros(4, np.float16)}), "m": MetricRecord({"a": 1})})
        copies = [packed(unpacked(content), ["delta"]), encoded_again(content)]
        held = [weakref.ref(record) for one in (content, *copies) for record in (one, *one.values())]
        weights = {"w": torch.zeros(4, dtype=torch.float16)}
        update, order = (
            wire.encode_update(SiteUpdate("a", 1, weights)),
            wire.encode_order(RoundOrder(1, weights, share_head=False), 64 * "0"),
        )
        held += [weakref.ref(record) for one in (update, order) for record in (one, *one.values())]
        for one in (content, *copies):
            arrays_of(one, "delta")
            outline(one)
        wire.decode_update(update, "a", {"w": torch.Size([4])}, 1)
        wire.decode_order(order, 1)
        wire.num_bytes(update)
        del content, copies, one, update, order
        assert len(held) == 20
        assert not [reference for reference in held if reference() is not None]
    finally:
        gc.enable()
