"""Checkpoints: the coordinator's state on disk, one folder per round, written atomically; the two newest are kept."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save

from cdtl_core.errors import CheckpointError, ModelError
from cdtl_core.federation.state import CoordinatorState, HeadSum, Member, Record
from cdtl_core.models.weights import Weights, load_weights
from cdtl_core.system.durable import file_hash, publish_folder, unwritable
from cdtl_core.system.foreign import parse_json

__all__ = ["load_latest", "save_checkpoint"]

_KEPT = 2


def save_checkpoint(folder: Path, state: CoordinatorState) -> None:
    """Write ``folder/round-0003``: state.safetensors, and state.json with its hash; then remove older rounds.

    A tensor that several groups hold is written once.

    Raises:
        CheckpointError: The disk is full or read-only; what was there before is whole.
    """
    target = folder / f"round-{state.round:04d}"
    try:
        _publish(folder / f".draft-{state.round:04d}", target, state)
    except OSError as error:
        raise unwritable(target, error) from None
    for old in _rounds(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _publish(draft: Path, target: Path, state: CoordinatorState) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    weights = _flat("offset", state.offsets) | _flat("heads", {group: sum.total for group, sum in state.heads.items()})
    firsts = {id(value): name for name, value in reversed(weights.items())}  # groups may hold the same tensor
    content = save({name: weights[name] for name in firsts.values()})
    (draft / "state.safetensors").write_bytes(content)
    note = {
        "round": state.round,
        "members": [vars(member) for member in state.members],
        "groups": list(state.offsets),
        "tensors": {name: firsts[id(value)] for name, value in weights.items()},
        "initial_weights_hash": state.initial_weights_hash,
        "heads": {group: {"patients": one.patients, "sites": one.sites} for group, one in state.heads.items()},
        "records": {site: vars(record) for site, record in state.records.items()},
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (draft / "state.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    publish_folder(draft, target)


def load_latest(folder: Path) -> tuple[CoordinatorState | None, list[str]]:
    """Return the newest intact checkpoint, and a sentence for each newer damaged one; None if there is none.

    Raises:
        CheckpointError: There are checkpoints and every one is damaged.
    """
    faults: list[str] = []
    for path in reversed(_rounds(folder)):
        try:
            return _load(path), faults
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, ModelError) as error:
            faults.append(f"the checkpoint {path} is damaged ({type(error).__name__}): the previous one is used.")
    if faults:
        raise CheckpointError(f"every checkpoint in {folder} is damaged: start the run again in another folder.")
    return None, []


def _load(path: Path) -> CoordinatorState:
    note: dict[str, Any] = parse_json((path / "state.json").read_text(encoding="utf-8"))
    tensors = path / "state.safetensors"
    if file_hash(tensors) != note["sha256"]:
        raise ValueError("hash differs")
    found, groups = load_weights(tensors), list(note["groups"])
    # The file's order differs. Checkpoints written before 0.2 call the offsets drifts and the hash theta0_hash.
    weights = {re.sub("^drift/", "offset/", name): found[first] for name, first in dict(note["tensors"]).items()}
    members = tuple(Member(**member) for member in note["members"])
    return CoordinatorState(
        int(note["round"]),
        members,
        _nested("offset", weights, groups),
        str(note["initial_weights_hash"] if "initial_weights_hash" in note else note["theta0_hash"]),
        {site: _record(value) for site, value in note.get("records", {}).items()},
        _heads(dict(note.get("heads", {})), weights),
    )


def _heads(notes: dict[str, Any], weights: Weights) -> dict[str, HeadSum]:
    totals = _nested("heads", weights, list(notes))
    return {g: HeadSum(totals[g], dict(note["patients"]), dict(note["sites"])) for g, note in notes.items()}


def _record(value: dict[str, Any]) -> Record:
    norms, digests = tuple(map(float, value["norms"])), tuple(map(str, value["digests"]))
    return Record(norms, digests, int(value["strikes"]), str(value["quarantined"]))


def _rounds(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("round-*") if path.is_dir())


def _flat(kind: str, models: Any) -> Weights:
    return {f"{kind}/{group}/{name}": value for group, weights in models.items() for name, value in weights.items()}


def _nested(kind: str, flat: Weights, groups: list[str]) -> dict[str, Weights]:
    starts = {group: f"{kind}/{group}/" for group in groups}
    return {g: {n.removeprefix(s): v for n, v in flat.items() if n.startswith(s)} for g, s in starts.items()}
