"""Every reader of a file as a function of bytes, with whole examples to damage."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import load_run, load_site, save_toml
from cdtl_core.coordinator.admission import KnownLedgers, enrolled_contracts
from cdtl_core.data.manifest import read_manifest
from cdtl_core.deploy.approval_list import approvals
from cdtl_core.deploy.enrolling import enrol_site, make_site
from cdtl_core.deploy.enrolment import load_enrolment
from cdtl_core.deploy.members import admit, members
from cdtl_core.deploy.request import check_request, load_request, make_request, save_request
from cdtl_core.deploy.runs import load_run_state
from cdtl_core.federation.checkpoint import load_latest, save_checkpoint
from cdtl_core.federation.contract import ModalityContract
from cdtl_core.federation.journal import JournalFile, read_diary, read_journal
from cdtl_core.federation.state import CoordinatorState, HeadSum, Member, Record
from cdtl_core.inference.model_folder import read_note
from cdtl_core.models.weights import load_weights, save_weights
from cdtl_core.privacy.ledger import open_ledger
from cdtl_core.privacy.ledger_file import read_ledger
from cdtl_core.results.card import CARD_FILE, load_card
from cdtl_core.results.scores import TEST_FILE, read_scores
from cdtl_core.system.foreign import read_json

__all__ = ["CONTRACT", "DELTA", "RUN", "SITE", "Decoder", "file_decoders"]

CONTRACT = ModalityContract(
    site="north", modality="mri", labels=("benign", "malignant"), positive="malignant", channels=1, bit_depth=8,
    patients=40,
)  # fmt: skip
RUN = RunConfig.model_validate(
    {
        "image": {"size": 32},
        "model": {"backbone": "test_efficientnet", "weights": "random"},
        "limits": {"initial_weights_hash": "0" * 64},
    }
)
DELTA = {"w": torch.tensor([1.0, -2.0, 3.0]).half(), "v": torch.ones(2, 2).half()}


@dataclass(frozen=True)
class Decoder:
    """A reader: what whole input looks like, and how damaged input is put to it."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]


def file_decoders(folder: Path) -> dict[str, Decoder]:
    place = folder / "files"
    place.mkdir(parents=True, exist_ok=True)
    line = {"method": "cdtl", "round": 1, "seconds": 1.0}
    rounds = [
        {**line, "sites": {"north": {"val_loss": 0.5}}, "refused": {"south": "why"}},
        {**line, "round": 2, "finish": {"north": {"test_auroc": 0.5}}, "missing": {}},
    ]
    journal = "".join(json.dumps(one) + "\n" for one in rounds).encode()
    known = Member("north", "mri", 24, "L", "a" * 32, 4)
    written: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
        "enrolled.json": (
            "enrolled.json",
            _json({"north": CONTRACT.model_dump(mode="json")}),
            lambda path: enrolled_contracts(RunFolder(path.parent)),
        ),
        "ledgers.json": ("ledgers.json", _json({"north": ["a" * 32, 3]}), lambda path: KnownLedgers(path).admit(known)),
        "progress.json": ("progress.json", _json({"pid": 12, "round": 3, "waiting": {"north": "working"}}), read_json),
        "run.json": ("run.json", _json({"status": "running", "flower_run": "12"}), _beside(load_run_state)),
        "rounds.jsonl, page": ("rounds.jsonl", journal, read_journal),
        "rounds.jsonl, server": ("served.jsonl", journal, _rewound),
        "diary": (
            "diary.jsonl",
            _json({"round": 1, "val_loss": 0.5}) + b"\n",
            lambda p: read_diary(p, "cdtl", "north"),
        ),
        "run settings": ("run.toml", _toml(RUN.model_dump(mode="json"), place), load_run),
        "site settings": ("site.toml", SITE, load_site),
        "manifest": ("manifest.csv", _MANIFEST, lambda path: read_manifest(path, labels=CONTRACT.labels)),
    }
    found = {name: _file(place / file, [seed], read) for name, (file, seed, read) in written.items()}
    return {**_checkpoints(folder), **_papers(folder), **_models(folder), **found}


SITE = b'site = "north"\nmodality = "mri"\n[data]\nroot = "x"\nmanifest = "m.csv"\n'
_MANIFEST = b"file,label,patient_id,split\na.png,benign,p1,train\nb.png,malignant,p2,\n"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _beside(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read(path.parent)


def _rewound(path: Path) -> bool:
    copy = path.with_suffix(".rewound")
    copy.write_bytes(path.read_bytes())
    journal = JournalFile(copy, "cdtl")
    journal.rewind(1)
    return journal.finished()


def _file(path: Path, seeds: list[bytes], read: Callable[[Path], object]) -> Decoder:
    def damaged(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return Decoder(tuple(seeds), damaged)


def _toml(tree: dict[str, object], folder: Path) -> bytes:
    save_toml(folder / "whole.toml", tree)
    text = (folder / "whole.toml").read_bytes()
    assert tomllib.loads(text.decode())
    return text


def _checkpoints(folder: Path) -> dict[str, Decoder]:
    records = {"north": Record((1.0, 2.0), ("a" * 16,), 1, "")}
    place = folder / "checkpoints"
    for round in (1, 2):
        offsets = {"mri": {"w": torch.full((2,), 1.0).half()}, "ct": {}}
        heads = {"mri": HeadSum({"head.L.weight": torch.ones(2, 2).double()}, {"L": 3}, {"north": 3})}
        member = Member("north", "mri", 3, "L")
        save_checkpoint(place, CoordinatorState(round, (member,), offsets, "t", records, heads))
    newest = place / "round-0002"

    def one(name: str) -> Decoder:
        whole = (newest / name).read_bytes()

        def read(data: bytes) -> object:
            (newest / name).write_bytes(data)
            try:
                return load_latest(place)
            finally:
                (newest / name).write_bytes(whole)

        return Decoder((whole,), read)

    return {f"checkpoint: {name}": one(name) for name in ("state.json", "state.safetensors")}


def _papers(folder: Path) -> dict[str, Decoder]:
    """Enrolments, members, requests, approvals, ledgers."""
    home, coordinator = folder / "north", folder / "coordinator"
    site = SiteConfig.model_validate({"site": "north", "modality": "mri", "data": {"phantom": {"patients": 12}}})
    if not home.exists():
        make_site(home, site)
    enrolment = enrol_site(home, RUN)
    admit(coordinator, enrolment)
    save_request(folder / "request.json", make_request(RUN, "0" * 64))
    (member,) = [path for path in coordinator.rglob("*.json") if "north" in path.name]
    ledger = folder / "ledger"
    open_ledger(ledger, site="north", num_patients=20)
    (line,) = [path for path in ledger.iterdir() if path.suffix == ".jsonl"]
    list_ = home / "approvals"
    list_.mkdir(exist_ok=True)
    return {
        "enrolment": _file(folder / "enrolment.json", [enrolment.model_dump_json().encode()], load_enrolment),
        "member": _file(member, [member.read_bytes()], lambda _: members(coordinator)),
        "request": _file(
            folder / "asked.json",
            [(folder / "request.json").read_bytes()],
            lambda path: check_request(load_request(path)),
        ),
        "approval": _file(list_ / f"{'a' * 16}.json", [b'{"id": "a"}'], lambda _: approvals(home)),
        "privacy ledger": _file(line, [line.read_bytes()], lambda path: read_ledger(path.parent)),
    }


def _models(folder: Path) -> dict[str, Decoder]:
    place = folder / "model"
    note = {
        "cdtl_version": "0.1.0", "federation": "f", "method": "cdtl", "seed": 0, "site": "north", "modality": "mri",
        "backbone": "test_efficientnet", "labels": ["benign", "malignant"], "positive": "malignant", "image_size": 32,
        "temperature": 1.0, "chosen": "joint", "validation_log_loss": {"joint": 0.5}, "weights_sha256": "0" * 64,
    }  # fmt: skip
    place.mkdir(exist_ok=True)
    (place / "model.json").write_text(json.dumps(note))
    weights, card = place / "model.safetensors", _json({"schema_version": 1, "site": "north"})
    save_weights(weights, {"w": torch.ones(3), "b": torch.zeros(2, 2).half()})
    scores = b"image,patient,positive,p_pool,p_own\na.png,0,1,0.5,0.25\nb.png,1,0,0.1,0.9\n"
    return {
        "model.json": _file(place / "note.json", [json.dumps(note).encode()], read_note),
        "model.safetensors": _file(weights, [weights.read_bytes()], load_weights),
        "model_card.json": _file(place / CARD_FILE, [card], lambda _: load_card(place)),
        "scores.csv": _file(place / TEST_FILE, [scores], lambda _: read_scores(place)),
    }
