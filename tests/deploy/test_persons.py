"""Approval by two persons with separate keys, and attacks by one person or an edited file."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from cdtl_core.cli.main import app
from cdtl_core.config import SimulationConfig, SiteConfig
from cdtl_core.deploy.approval_list import Approval, approvals, withdraw
from cdtl_core.deploy.approvals import approve, decide, missing_persons
from cdtl_core.deploy.persons import Signer, load_signer, make_person_key
from cdtl_core.deploy.refusing import refusals, refuse
from cdtl_core.deploy.request import ApprovalRequest, make_request, request_id
from cdtl_core.errors import CdtlError, CheckpointError, ConfigError, PrivacyError
from tests.deploy.desk import with_initial_weights
from tests.tables import Tries

Tiny = Callable[..., SimulationConfig]
CODE = "a" * 64
PHRASE = "correct horse"


def site_of(people: int, keys: dict[str, str]) -> SiteConfig:
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    return SiteConfig.model_validate({**tree, "approval": {"people": people, "keys": keys}})


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Signer]:
    folder, found = tmp_path_factory.mktemp("keys"), {}
    for name in ("Ana", "Ben", "Eve"):
        make_person_key(folder / name, PHRASE)
        found[name] = load_signer(folder / name, name, PHRASE)
    return found


@pytest.fixture
def two(persons: dict[str, Signer]) -> SiteConfig:
    return site_of(2, {name: persons[name].public for name in ("Ana", "Ben")})


@pytest.fixture
def asked(tiny: Tiny) -> ApprovalRequest:
    return make_request(with_initial_weights(tiny().run), CODE)


def allowed(home: Path, asked: ApprovalRequest, site: SiteConfig) -> bool:
    return decide(home, CODE, asked.settings, site).approved is not None


def test_a_run_begins_only_after_the_second_person_and_either_can_withdraw_it(
    asked: ApprovalRequest, two: SiteConfig, persons: dict[str, Signer], tmp_path: Path
) -> None:
    first = approve(tmp_path, asked, two, signer=persons["Ana"])
    assert "approved by Ana, and 2 persons must approve it: another of Ben has to" in missing_persons(first, two)
    assert not allowed(tmp_path, asked, two)
    assert "another of Ben" in decide(tmp_path, CODE, asked.settings, two).reason
    both = approve(tmp_path, asked, two, signer=persons["Ben"])
    assert [one.person for one in both.signatures] == ["Ana", "Ben"]
    assert allowed(tmp_path, asked, two)
    withdraw(tmp_path, both.id)
    assert not allowed(tmp_path, asked, two)
    approve(tmp_path, asked, two, signer=persons["Ben"])
    assert not allowed(tmp_path, asked, two)


@pytest.mark.attack("Two people approve a run", "the same person twice, a stranger, no key")
def test_one_person_alone_approves_nothing(
    asked: ApprovalRequest, two: SiteConfig, persons: dict[str, Signer], tmp_path: Path, tries: Any
) -> None:
    approve(tmp_path, asked, two, signer=persons["Ana"])
    approve(tmp_path, asked, two, signer=persons["Ana"])
    posing = Signer("Ben", persons["Ana"].key)
    for signer in (None, persons["Eve"], posing):
        with pytest.raises(PrivacyError):
            approve(tmp_path, asked, two, signer=signer)
        assert not allowed(tmp_path, asked, two)
        tries.add()
    with pytest.raises(ValidationError, match="lists the same key for two persons"):
        site_of(2, {"Ana": persons["Ana"].public, "Ben": persons["Ana"].public})
    with pytest.raises(ValidationError, match=r"approval\.people is 2 and approval\.keys names 1"):
        site_of(2, {"Ana": persons["Ana"].public})
    tries.add(3)


@pytest.mark.attack("Two people approve a run", "the approval file is edited")
def test_an_edited_file_has_no_second_signature(
    asked: ApprovalRequest, two: SiteConfig, persons: dict[str, Signer], tmp_path: Path, tries: Any
) -> None:
    approval = approve(tmp_path, asked, two, signer=persons["Ana"])
    path = tmp_path / "approvals" / f"{approval.id}.json"
    own = approval.signatures[0].model_dump()
    forged: list[dict[str, Any]] = [
        {"signatures": [own, own]},
        {"signatures": [own, {**own, "person": "Ben"}]},
        {"signatures": [own, {**own, "person": "Ben", "signature": "AAAA"}]},
        {"signatures": [own, {**own, "person": "Ben", "signature": "no base64"}]},
        {"signatures": [own, {**own, "person": "Eve"}]},
    ]
    content = json.loads(path.read_text())
    for change in forged:
        path.write_text(json.dumps({**content, **change}))
        assert not allowed(tmp_path, asked, two)
        tries.add()
    approve(tmp_path, asked, two, signer=persons["Ana"])
    both = json.loads(approve(tmp_path, asked, two, signer=persons["Ben"]).model_dump_json())
    assert allowed(tmp_path, asked, two)
    both["egress"]["replies"]["train"]["total_bytes"] += 1
    path.write_text(json.dumps(both))
    assert not allowed(tmp_path, asked, two)
    tries.add()


@pytest.mark.attack("Two people approve a run", "other settings the second time")
def test_two_people_who_approve_two_different_runs_have_approved_neither(
    asked: ApprovalRequest, two: SiteConfig, persons: dict[str, Signer], tmp_path: Path
) -> None:
    other = asked.model_copy(update={"settings": {**asked.settings, "train.lr": 0.5}})
    first = approve(tmp_path, asked, two, signer=persons["Ana"])
    second = approve(tmp_path, other, two, signer=persons["Ben"])
    assert not allowed(tmp_path, asked, two)
    assert not allowed(tmp_path, other, two)
    moved = Approval.model_validate({**second.model_dump(), "signatures": (*second.signatures, *first.signatures)})
    (tmp_path / "approvals" / f"{second.id}.json").write_text(moved.model_dump_json())
    assert not allowed(tmp_path, other, two)
    assert set(approvals(tmp_path)) == {first.id, second.id}


def test_a_key_needs_its_passphrase(tmp_path: Path) -> None:
    make_person_key(tmp_path / "key", PHRASE)
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="cannot be opened"):
        load_signer(tmp_path / "key", "Ana", "another phrase")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_signer(tmp_path / "none", "Ana", PHRASE)
    with pytest.raises(CheckpointError, match="exists"):
        make_person_key(tmp_path / "key", PHRASE)
    with pytest.raises(ConfigError, match="fewer than 8"):
        make_person_key(tmp_path / "short", "1234567")


def test_a_person_makes_a_key_at_the_command_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["site", "approver", str(tmp_path / "key")], input=f"{PHRASE}\n{PHRASE}\n")
    assert done.exit_code == 0, done.output
    line = next(line for line in done.output.splitlines() if "ssh-ed25519" in line)
    public = line.split('"')[3]
    assert load_signer(tmp_path / "key", "Ana", PHRASE).public == public
    assert site_of(1, {"Ana": public}).approval.people == 1


def test_a_key_file_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"no key")
    with pytest.raises(CdtlError, match="cannot be opened"):
        load_signer(tmp_path / "key", "Ana", PHRASE)


@pytest.mark.attack("Two people approve a run", "one refuses while the other signs")
def test_who_refuses_while_another_signs_is_not_overruled(
    asked: ApprovalRequest, two: SiteConfig, persons: dict[str, Signer], tmp_path: Path, tries: Tries
) -> None:
    approve(tmp_path, asked, two, signer=persons["Ana"])
    id = request_id(CODE, asked.settings)
    other = threading.Thread(target=refuse, args=(tmp_path, id, "tiny"), kwargs={"note": "Ana: no"})
    times = iter(range(100))

    def clock() -> float:
        if next(times) == 1:  # Ana's signature was read, and Ben's is being made
            other.start()
            other.join(0.3)
        return 0.0

    approve(tmp_path, asked, two, signer=persons["Ben"], clock=clock)
    other.join(30)
    tries.add()
    assert not allowed(tmp_path, asked, two)
    assert id in refusals(tmp_path)


@pytest.mark.attack("Two people approve a run", "one refuses while the other's approval is worked out")
def test_an_approval_that_takes_a_minute_does_not_overrule_a_refusal_of_this_minute(
    asked: ApprovalRequest, tmp_path: Path, tries: Tries
) -> None:
    id, site = request_id(CODE, asked.settings), site_of(1, {})

    def clock() -> float:  # asked for after the initial weights were worked out
        refuse(tmp_path, id, "tiny", note="Ana: no")
        return 0.0

    with pytest.raises(PrivacyError, match="was refused while this approval was worked out"):
        approve(tmp_path, asked, site, clock=clock)
    tries.add()
    assert id in refusals(tmp_path)
    assert not approvals(tmp_path)
    approve(tmp_path, asked, site)
    assert allowed(tmp_path, asked, site)
    assert not refusals(tmp_path)
