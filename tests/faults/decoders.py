"""Every reader of outside data as a function of bytes, with whole examples to damage: messages, and `file_decoders`."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from cdtl_core.deploy.egress_filter.judge import judge
from cdtl_core.errors import CdtlError
from cdtl_core.federation import wire
from cdtl_core.federation.contract import load_contract
from cdtl_core.federation.egress import egress_manifest
from cdtl_core.federation.egress_check import Own
from cdtl_core.federation.site import RoundOrder, SiteUpdate
from cdtl_core.federation.state import Member
from cdtl_core.models.weights import weights_hash
from cdtl_core.site.session import describe_site, finish_run, train_round
from tests.faults.file_decoders import CONTRACT, DELTA, RUN, SITE, Decoder, file_decoders

EXPECTED = {"w": torch.Size([3]), "v": torch.Size([2, -1])}


def decoders(folder: Path) -> dict[str, Decoder]:
    """All of them; files are written below `folder`."""
    return {**_messages(folder / "acting"), **file_decoders(folder)}


def _messages(home: Path) -> dict[str, Decoder]:
    update = wire.encode_update(SiteUpdate("north", 3, DELTA, {"val_loss": 0.5, "val_auroc": 0.75, "train_loss": 1.0}))
    plain = RecordDict({"delta": ArrayRecord({n: Array(v.numpy()) for n, v in DELTA.items()}), **_without(update)})
    private = wire.encode_update(SiteUpdate("north", 3, DELTA, {}, private=True))
    hello = wire.encode_introduction(wire.Introduction(Member("north", "mri", 24, "0" * 8), True, CONTRACT))
    order = wire.encode_order(RoundOrder(3, DELTA, True), "0" * 64)
    final = wire.encode_final(
        wire.FinalScalars({"test_auroc": 0.5, "test_auroc_low": 0.25, "test_auroc_high": 0.75}, "pool")
    )
    initial_weights = RecordDict(dict(wire.encode_initial_weights(DELTA)))
    asked = wire.encode_order(RoundOrder(3, {}, True), weights_hash(DELTA))
    asked.update(wire.encode_initial_weights(DELTA))
    (home / "memory").mkdir(parents=True, exist_ok=True)
    (home / "site.toml").write_bytes(SITE)
    manifest = egress_manifest(RUN)
    return {
        "message: update": _message((update, plain, private), lambda m: wire.decode_update(m, "north", EXPECTED, 3)),
        "message: introduction": _message((hello,), wire.decode_introduction),
        "message: order": _message((order,), lambda m: wire.decode_order(m, 8)),
        "message: order, acted on": _message((order, asked), lambda m: _act(home, m)),
        "message: question": _message((wire.encode_question("0" * 64),), lambda m: describe_site(m, home, RUN)),
        "message: initial_weights": _message((initial_weights,), wire.decode_initial_weights),
        "message: final": _message((final,), wire.decode_final),
        "filter: reply": Decoder(
            tuple(_packet(one) for one in (update, hello, final)),
            lambda data: judge(manifest, "train", *_objects(data), Own(3, CONTRACT.model_dump_json())),
        ),
        "contract": Decoder((CONTRACT.model_dump_json().encode(),), _of_text(lambda text: load_contract(text, "here"))),
    }


def _act(home: Path, content: RecordDict) -> None:
    """Do what the site would do with a message, up to where it needs its images."""
    for act in (train_round, finish_run):
        with contextlib.suppress(CdtlError):  # this home has no images
            act(content, home, RUN)


def _without(content: RecordDict) -> dict[str, MetricRecord]:
    return dict(content.metric_records.items())


def _message(whole: tuple[RecordDict, ...], decode: Callable[[RecordDict], object]) -> Decoder:
    """Records as JSON, so that damage reaches the values; what Flower itself refuses never reaches us."""

    def read(data: bytes) -> object:
        content = _record_of(data)
        return None if content is None else decode(content)

    return Decoder(tuple(_text_of(one) for one in whole), read)


def _text_of(content: RecordDict) -> bytes:
    arrays = {
        key: {name: array.data.decode("latin-1") for name, array in record.items()}
        for key, record in content.array_records.items()
    }
    metrics = {key: dict(record) for key, record in content.metric_records.items()}
    configs = {key: dict(record) for key, record in content.config_records.items()}
    return json.dumps([arrays, metrics, configs]).encode()


def _record_of(data: bytes) -> RecordDict | None:
    try:
        arrays, metrics, configs = json.loads(data)
        content = RecordDict()
        for key, record in arrays.items():
            content[key] = ArrayRecord(
                {n: Array("float32", (1,), "numpy.ndarray", text.encode("latin-1")) for n, text in record.items()}
            )
        for key, record in metrics.items():
            content[key] = MetricRecord(record)
        for key, record in configs.items():
            content[key] = ConfigRecord(record)
    except Exception:  # no such message can be
        return None
    return content


def _packet(content: RecordDict) -> bytes:
    """All objects of a record, behind each other: length, name, content."""
    parts = get_all_nested_objects(content)
    names = list(parts)
    packet = b""
    for name in names:
        body = parts[name].deflate()
        packet += name.encode().ljust(64, b" ") + len(body).to_bytes(4, "big") + body
    return packet


def _objects(data: bytes) -> tuple[str, dict[str, bytes]]:
    found: dict[str, bytes] = {}
    name = ""
    while len(data) >= 68:
        name, size = data[:64].decode("latin-1").strip(), int.from_bytes(data[64:68], "big")
        found[name], data = data[68 : 68 + size], data[68 + size :]
    return name, found


def _of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: read(data.decode("utf-8", errors="replace"))


def numpy_files() -> list[bytes]:
    """Arrays as Flower sends them, for forged headers."""
    return [Array(np.zeros(shape, dtype)).data for shape, dtype in (((3,), "<f2"), ((2, 2), "<f4"), ((4,), "u1"))]


__all__ = ["Decoder", "decoders", "numpy_files"]
