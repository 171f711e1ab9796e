"""The server's state on disk."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdtl_core.errors import CheckpointError
from cdtl_core.federation.checkpoint import load_latest, save_checkpoint
from cdtl_core.federation.state import CoordinatorState, HeadSum, Member


def state(round: int) -> CoordinatorState:
    offsets = {"mri": {"z": torch.full((2,), float(round)).half(), "a": torch.ones(1).half()}, "ct": {}}
    heads = {"mri": HeadSum({"head.L.bias": torch.full((2,), 0.1, dtype=torch.float64)}, {"L": 3}, {"s": 3})}
    return CoordinatorState(round, (Member("s", "mri", 3, "L"),), offsets, "t", heads=heads)


def test_what_is_loaded_equals_what_was_saved_also_in_the_order_of_tensors(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(3))
    loaded, faults = load_latest(tmp_path)
    assert faults == []
    assert loaded is not None
    assert (loaded.round, loaded.members) == (3, state(3).members)
    assert list(loaded.offsets["mri"]) == ["z", "a"]  # safetensors sorts; depth policies need the layers' order
    assert all(loaded.offsets["mri"][name].equal(value) for name, value in state(3).offsets["mri"].items())
    assert loaded.offsets["ct"] == {}
    (kept, saved) = (one.heads["mri"] for one in (loaded, state(3)))
    assert (kept.patients, kept.sites) == (saved.patients, saved.sites)
    assert kept.total["head.L.bias"].equal(saved.total["head.L.bias"])


def test_a_checkpoint_before_0_2_is_read_by_its_names(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(3))
    folder = tmp_path / "round-0003"
    tensors = {
        name.replace("offset/", "drift/"): value for name, value in load_file(folder / "state.safetensors").items()
    }
    save_file(tensors, folder / "state.safetensors")
    note = json.loads((folder / "state.json").read_text().replace("offset/", "drift/"))
    note["theta0_hash"] = note.pop("initial_weights_hash")
    note["sha256"] = hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()
    (folder / "state.json").write_text(json.dumps(note))
    loaded, faults = load_latest(tmp_path)
    assert faults == []
    assert loaded is not None
    assert loaded.initial_weights_hash == "t"
    assert loaded.offsets["mri"]["z"].equal(state(3).offsets["mri"]["z"])


def test_two_rounds_are_kept(tmp_path: Path) -> None:
    for round in (1, 2, 3):
        save_checkpoint(tmp_path, state(round))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0002", "round-0003"]


@pytest.mark.parametrize("fault", ["truncate", "flip", "no note", "bad note"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path, fault: str) -> None:
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    tensors, note = tmp_path / "round-0002" / "state.safetensors", tmp_path / "round-0002" / "state.json"
    content = tensors.read_bytes()
    match fault:
        case "truncate":
            tensors.write_bytes(content[:-1])
        case "flip":
            tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "no note":
            note.unlink()
        case "bad note":
            note.write_text("{")
    loaded, faults = load_latest(tmp_path)
    assert loaded is not None
    assert loaded.round == 1
    assert "round-0002 is damaged" in faults[0]


def test_no_checkpoint_is_a_fresh_start_and_only_damaged_ones_an_error(tmp_path: Path) -> None:
    assert load_latest(tmp_path) == (None, [])
    save_checkpoint(tmp_path, state(1))
    (tmp_path / "round-0001" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        load_latest(tmp_path)
