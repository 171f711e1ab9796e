"""Messages with paths in their fields: no file of the site is read, written or removed."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from cdtl_core.config import RunConfig
from cdtl_core.config.schema import inside
from cdtl_core.errors import CdtlError, PrivacyError
from cdtl_core.site import session
from tests.faults.fuzz import tree_of
from tests.tables import Tries

RUN = RunConfig.model_validate({"name": "study"})
WAYS = (
    "{outside}/precious",
    "../outside/precious",
    "../../outside/precious",
    "../models/study-cdtl/model",
    "../memory/study-cdtl/round-0001",
    "../../north/models/study-cdtl/model",
    "./" + "0" * 64,
    "0" * 64 + "/../../outside/precious",
    "precious\x00",
    "",
    "A" * 64,
    "0" * 63,
    "0" * 64 + "\n",
)


def home_of(folder: Path) -> Path:
    """A site's folder with files of value, and one beside it."""
    home = folder / "north"
    for name in (
        "models/study-cdtl/model",
        "memory/study-cdtl/round-0001",
        "initial_weights/my-own-start",
        "../outside/precious",
    ):
        path = home / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of value")
    (home / "site.toml").write_text('site = "north"\nmodality = "mri"\n[data]\nroot = "x"\nmanifest = "m.csv"\n')
    return home


def order(initial_weights_hash: Any, **more: Any) -> RecordDict:
    fields = {"round": 2, "share_head": True, "initial_weights_hash": initial_weights_hash, **more}
    return RecordDict({"order": ConfigRecord(fields), "offset": ArrayRecord()})


@pytest.mark.attack("a message never names a path", "initial_weights_hash and baseline as paths")
@pytest.mark.parametrize("act", ["train_round", "finish_run"])
def test_a_hash_that_is_a_path_is_refused_and_no_file_changes(act: str, tmp_path: Path, tries: Tries) -> None:
    home = home_of(tmp_path)
    before = tree_of(tmp_path)
    for way in WAYS:
        path = way.format(outside=tmp_path / "outside")
        for content in (order(path), order("0" * 64, baseline=path or "x"), order(path, round=1)):
            tries.add()
            with pytest.raises(CdtlError):
                getattr(session, act)(content, home, RUN)
            assert tree_of(tmp_path) == before, (way, content["order"])


@pytest.mark.attack("a message never names a path", "an unknown hash, to have files removed")
def test_a_hash_that_the_site_does_not_hold_removes_nothing(tmp_path: Path) -> None:
    home = home_of(tmp_path)
    held = home / "initial_weights" / f"{'1' * 64}.safetensors"
    held.write_bytes(b"damaged, and kept until it is sent again")
    before = tree_of(tmp_path)
    for hash in ("0" * 64, "1" * 64):
        with pytest.raises(CdtlError):
            session.train_round(order(hash), home, RUN)
    assert tree_of(tmp_path) == before


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "a\x00", "a\n", "-rf", "~"])
def test_a_name_that_leads_out_of_its_folder_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(PrivacyError, match="nothing was changed"):
        inside(tmp_path, "memory", name)
    assert inside(tmp_path, "memory", "study-cdtl") == tmp_path / "memory" / "study-cdtl"


@pytest.mark.parametrize("round", [0, -1, 9, 777, 2**62, True, 1.0, "1"])
def test_a_round_that_the_run_does_not_have_is_refused(tmp_path: Path, round: Any) -> None:
    with pytest.raises(CdtlError):
        session.train_round(order("0" * 64, round=round), home_of(tmp_path), RUN)
    assert session.wire.decode_order(order("0" * 64, round=8), 8)[1] == "0" * 64  # type: ignore[attr-defined]
