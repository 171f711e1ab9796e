"""Weights as values."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cdtl_core.errors import CheckpointError, ModelError
from cdtl_core.models.weights import (
    check_finite,
    load_into,
    load_weights,
    save_hashed,
    save_weights,
    take,
    to_half,
    weights_hash,
)
from cdtl_core.system.durable import file_hash


def test_taking_copies_and_loading_overwrites_in_place() -> None:
    layer = nn.Linear(2, 2)
    taken = take(layer, ["weight"])
    with torch.no_grad():
        layer.weight.zero_()
    assert taken["weight"].abs().sum() > 0
    load_into(layer, taken)
    assert layer.weight.equal(taken["weight"])


@pytest.mark.parametrize(
    ("weights", "says"), [({"nose": torch.zeros(1)}, "the model does not have"), ({"bias": torch.zeros(3)}, "shape")]
)
def test_what_does_not_fit_is_refused(weights: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load_into(nn.Linear(2, 2), weights)


def test_values_that_are_not_finite_or_too_large_for_half_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite in 'w'"):
        check_finite({"w": torch.tensor([float("inf")])}, "the model")
    with pytest.raises(ModelError, match="not finite"):
        to_half({"w": torch.tensor([1e6])})


def test_saved_weights_come_back_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.arange(3.0)})
    assert load_weights(path)["w"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(path)


def test_the_hash_of_what_is_saved_is_that_of_the_file(tmp_path: Path) -> None:
    path, plain = tmp_path / "a" / "w.safetensors", tmp_path / "b.safetensors"
    weights = {"w": torch.randn(300, 7), "b": torch.zeros(3).half()}
    assert save_hashed(path, weights) == file_hash(path)
    save_weights(plain, weights)
    assert plain.read_bytes() == path.read_bytes()
    blocked = tmp_path / "folder"
    blocked.mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_hashed(blocked, weights)


def test_the_hash_depends_on_values_names_and_types_not_on_order() -> None:
    a, b = torch.ones(2), torch.zeros(2)
    assert weights_hash({"a": a, "b": b}) == weights_hash({"b": b, "a": a})
    assert len({weights_hash(x) for x in ({"a": a}, {"a": b}, {"b": a}, {"a": a.half()}, {"a": a.view(1, 2)})}) == 5
