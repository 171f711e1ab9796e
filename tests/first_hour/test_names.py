"""The names of a run at a site, as an operator tries them."""

import time
from pathlib import Path

import pytest

from cdtl_core.config.settings import flatten, load_config
from cdtl_core.deploy.pending import PendingRun, find, keep_pending
from tests.conftest import Cdtl

pytestmark = pytest.mark.integration
SITE = 'site = "cork"\nmodality = "ultrasound"\ndata.phantom = { patients = 16 }\n'


def waiting(bundle: bytes = b"code", **settings: str) -> PendingRun:
    flat = flatten(load_config("tiny").run) | settings
    return keep_pending(Path("cork"), bundle, flat, run_id=1, reason="", clock=time.time)  # type: ignore[arg-type]


def test_a_run_is_found_by_each_of_its_names_and_shown_with_all(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "cork").mkdir()
    (tmp_path / "cork" / "site.toml").write_text(SITE)
    run = waiting(name="lesions")
    assert find(Path("cork"), "lesions") == find(Path("cork"), run.id[:8]) == find(Path("cork"), run.bundle_sha256[:8])
    told = f"{run.id} (run lesions, bundle {run.bundle_sha256[:8]}...)"
    status = cdtl("site", "status", "cork")
    assert f"Waits for your approval: {told}" in status.out, status.err
    done = cdtl("site", "approve", "cork", "lesion", "--yes")
    assert done.code == 3
    assert done.err == (
        f"Error: 'lesion' is not a file and matches 0 pending runs (pending: {told}): give the coordinator's "
        "request.json, or the id or the name of one run.\n"
    )  # and nothing was built before
    again = waiting(b"other code", name="lesions")
    done = cdtl("site", "approve", "cork", "lesions", "--yes")
    assert (done.code, "matches 2 pending runs" in done.err) == (3, True)
    assert again.id in done.err
    assert run.id in done.err
    assert waiting(name=run.id[:8]) != find(Path("cork"), run.id[:8]) == run  # a name never hides an id


def test_an_invitation_is_not_a_request_and_the_sentence_says_so(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "cork").mkdir()
    (tmp_path / "cork" / "site.toml").write_text(SITE)
    (tmp_path / "cork.json").write_text('{"kind": "invitation", "schema_version": 1, "site": "cork"}')
    done = cdtl("site", "approve", "cork", "cork.json", "--yes")
    assert (done.code, done.err.startswith("Error: cork.json is an invitation, which site init takes: ")) == (3, True)
    assert "request.json" in done.err
