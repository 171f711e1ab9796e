"""The coordinator's desk: the same functions as the command line, and what may be tried against each form."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import SimulationConfig, TaskConfig
from cdtl_core.config.settings import save_toml
from cdtl_core.deploy.applications import applications, keep_application
from cdtl_core.deploy.authority import make_coordinator
from cdtl_core.deploy.enrolling import enrol_site
from cdtl_core.deploy.enrolment import Enrolment, load_enrolment
from cdtl_core.deploy.invitation import load_invitation
from cdtl_core.deploy.keys import spoken_end
from cdtl_core.deploy.members import admit, members
from cdtl_core.deploy.renewing import request_renewal
from cdtl_core.deploy.request import make_request, save_request
from cdtl_core.deploy.runs import queue_run
from cdtl_core.deploy.server_config import ServerConfig
from cdtl_core.desk.desk import Desk
from cdtl_core.desk.server import server_desk
from cdtl_core.errors import DataError, FederationError
from tests.deploy.desk import with_initial_weights
from tests.desk.person import Person, served

Tiny = Callable[..., SimulationConfig]
PAGES = ("/", "/sites", "/invite", "/runs", "/log")
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def office(tmp_path: Path) -> Path:
    folder = tmp_path / "office"
    make_coordinator(folder, ServerConfig(names=("localhost",)))
    return folder


@pytest.fixture
def enrolment(tmp_path: Path, tiny: Tiny) -> Path:
    """The file that the site alba sends."""
    return enrolled(tmp_path / "alba", tiny)


def enrolled(home: Path, tiny: Tiny, **settings: Any) -> Path:
    site = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    save_toml(home / "site.toml", {**site, **settings})
    enrol_site(home, tiny().run)
    return home / "enrolment.json"


@pytest.fixture
def desk(office: Path) -> Iterator[Desk]:
    with served(lambda port, doors: server_desk(office, port, doors)) as found:
        yield found


def given(person: Person, path: Path) -> str:
    """Give a file at the desk; returns the page of the application."""
    answer = person.fill("/sites", "/applications", {"file": (path.name, path.read_bytes())})
    assert answer.status_code == 200, answer.text
    return str(answer.url.path).removeprefix(person.base)


def names(office: Path) -> list[str]:
    return [member.site for member in members(office) if member.revoked_at is None]


def test_every_page_of_an_empty_coordinator_is_there(person: Person) -> None:
    for path in PAGES:
        answer = person.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.text.count("<h1>") == 1
        assert answer.text.count('aria-current="page"') == 1
    first = person.get("/").text
    for said in ("No site is admitted yet.", "cdtl server start", "GB free of", "this coordinator&#39;s certificate"):
        assert said in first


def test_a_site_is_admitted_by_the_end_of_its_fingerprint_alone(office: Path, enrolment: Path, person: Person) -> None:
    fingerprint = load_enrolment(enrolment).fingerprint
    page = given(person, enrolment)
    assert names(office) == [], "a file alone admits no one"
    assert "Site alba wants to join." in person.get("/").text
    shown = person.get(page).text
    for said in (fingerprint, "ultrasound", "Patients", "Call the hospital"):
        assert said in shown
    for typed in ("", "0000 0000 0000 0000", fingerprint[:19], spoken_end(fingerprint)[5:], "yes"):
        answer = person.fill(page, f"{page}/admit", spoken=typed)
        assert answer.status_code == 400
        assert "nothing was done" in answer.text
        assert names(office) == []
    said = person.fill(page, f"{page}/admit", spoken=spoken_end(fingerprint).upper().replace(" ", ""))
    assert "alba is admitted" in said.text
    assert names(office) == ["alba"]
    assert applications(office) == {}
    assert person.get(page).status_code == 404
    member = person.get("/sites/alba").text
    assert fingerprint in member
    assert "never seen" in person.get("/sites").text


def test_a_removed_application_admits_no_one(office: Path, enrolment: Path, person: Person) -> None:
    page = given(person, enrolment)
    assert "The application of alba is removed." in person.fill(page, f"{page}/remove").text
    assert applications(office) == {}
    late = person.send(f"{page}/admit", csrf=person.csrf, spoken=spoken_end(load_enrolment(enrolment).fingerprint))
    assert late.status_code == 400
    assert "does not wait any more" in late.text
    assert names(office) == []


def test_a_renewal_needs_the_known_key_and_no_call(office: Path, enrolment: Path, person: Person) -> None:
    admit(office, load_enrolment(enrolment))
    renewal = request_renewal(enrolment.parent)
    page = given(person, renewal)
    assert "so no call is needed" in person.get(page).text
    assert "alba has a new key" in person.fill(page, f"{page}/admit").text
    (member,) = members(office)
    assert member.former is not None


@pytest.mark.attack("Only a compared fingerprint admits a site", "files that were altered, exchanged, not applications")
def test_a_file_that_does_not_hold_together_is_refused(
    office: Path, enrolment: Path, person: Person, tmp_path: Path, tiny: Tiny, tries: Any
) -> None:
    content, other = json.loads(enrolment.read_text()), json.loads(enrolled(tmp_path / "other", tiny).read_text())
    altered: list[bytes] = [b"", b"{}", b"[]", b"\0" * 100, json.dumps(content["contract"]).encode()]
    altered += [json.dumps({**content, "contract": {**content["contract"], "site": "x"}}).encode()]
    altered += [
        json.dumps({**content, name: other[name]}).encode() for name in ("public_key", "certificate", "signature")
    ]
    altered += [json.dumps({"kind": "renewal", "enrolment": content, "voucher": content["signature"]}).encode()]
    for one in altered:
        answer = person.fill("/sites", "/applications", {"file": ("enrolment.json", one)})
        assert answer.status_code == 400, one[:100]
        assert str(tmp_path) not in answer.text
        tries.add()
    assert person.fill("/sites", "/applications", {"file": ("x", b"{" * 200_000)}).status_code == 413
    assert person.fill("/sites", "/applications").status_code == 400
    assert applications(office) == {}
    assert names(office) == []


@pytest.mark.attack("Only a compared fingerprint admits a site", "the file is exchanged after it was shown")
def test_what_was_shown_is_what_is_admitted(
    office: Path, enrolment: Path, person: Person, tmp_path: Path, tiny: Tiny, tries: Any
) -> None:
    page = given(person, enrolment)
    (path,) = (office / "applications").glob("*.json")
    path.write_bytes(enrolled(tmp_path / "other", tiny).read_bytes())
    other: Enrolment = load_enrolment(tmp_path / "other" / "enrolment.json")
    for fingerprint in (other.fingerprint, load_enrolment(enrolment).fingerprint):
        answer = person.send(f"{page}/admit", csrf=person.csrf, spoken=spoken_end(fingerprint))
        assert answer.status_code == 400
        tries.add()
    assert names(office) == []


def test_only_so_many_applications_wait(office: Path, tmp_path: Path, tiny: Tiny) -> None:
    content = enrolled(tmp_path / "alba", tiny).read_bytes()
    for number in range(64):
        keep_application(office, content + b" " * number)
    with pytest.raises(DataError, match="64 applications wait already"):
        keep_application(office, content + b" " * 64)
    assert keep_application(office, content).id in applications(office), "the same file again is no new one"


def test_a_member_is_revoked_only_by_its_typed_name(office: Path, enrolment: Path, person: Person) -> None:
    admit(office, load_enrolment(enrolment))
    assert person.fill("/sites/alba", "/sites/alba/revoke", name="albA").status_code == 400
    assert names(office) == ["alba"]
    assert "alba is revoked" in person.fill("/sites/alba", "/sites/alba/revoke", name="alba").text
    assert names(office) == []
    assert "Revoke</h2>" not in person.get("/sites/alba").text


def test_an_invitation_is_what_the_command_writes(office: Path, person: Person) -> None:
    told = {"site": "north", "labels": "sano, enfermo", "positive": "enfermo"}
    made = person.fill("/invite", "/invite", **told)
    assert made.status_code == 200, made.text
    found = load_invitation(office / "invitations" / "north.json")
    assert found.task == TaskConfig(labels=("sano", "enfermo"), positive="enfermo")
    assert found.fingerprint in made.text
    sent = person.get("/invitations/north")
    assert sent.headers["content-disposition"] == 'attachment; filename="north.json"'
    assert sent.content == (office / "invitations" / "north.json").read_bytes()
    for wrong in ({"site": "https://x"}, {"labels": "one"}, {"positive": "x"}, {"site": "../x"}):
        assert person.fill("/invite", "/invite", **(told | wrong)).status_code == 400
    assert [path.name for path in (office / "invitations").iterdir()] == ["north.json"]
    for path in ("/invitations/..%2f..%2fserver", "/invitations/server", "/runs/..%2fx/request.json"):
        assert person.get(path).status_code in {400, 404}


@pytest.fixture
def run(office: Path, tiny: Tiny) -> Path:
    """A run under way, which waits for one site."""
    config = with_initial_weights(tiny(federation={"sites": ["alba"], "rounds": 3}).run)
    folder = office / "runs" / config.name
    folder.mkdir(parents=True)
    save_toml(folder / "config.toml", config.model_dump(mode="json"))
    save_request(folder / "request.json", make_request(config, "a" * 64))
    queue_run(folder)
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**state, "status": "running"}))
    line = {
        "method": "cdtl",
        "round": 1,
        "sites": {"alba": {"val_auroc": 0.7}},
        "spent": [],
        "absent": [],
        "seconds": 2,
    }
    (folder / "rounds.jsonl").write_text(json.dumps(line) + "\n")
    progress = {"round": 1, "rounds": 3, "waiting": {"alba": f"not approved {SCRIPT}"}}
    (folder / "progress.json").write_text(json.dumps(progress))
    return folder


def test_a_run_shows_who_is_waited_for_its_rounds_and_its_report(run: Path, person: Person) -> None:
    told = person.get(f"/runs/{run.name}").text
    for said in ("running", "1 of 3", "alba", "round 1", "not approved &lt;script&gt;", "data-live"):
        assert said in told
    assert SCRIPT not in told
    assert f"/runs/{run.name}" in person.get("/").text
    assert "not approved &lt;script&gt;" in person.get("/runs").text
    assert person.get(f"/runs/{run.name}/request.json").json()["name"] == run.name
    report = person.get(f"/runs/{run.name}/report")
    assert report.status_code == 200
    assert "the coordinator&#39;s report" in report.text
    assert "unsafe-inline" not in report.headers["content-security-policy"]
    assert "is being stopped" in person.fill(f"/runs/{run.name}", f"/runs/{run.name}/stop").text
    assert (run / "stop").exists()
    assert person.get("/runs/other").status_code == 400


@pytest.mark.attack("No foreign page acts at a desk", "each form of the coordinator's desk: GET, token, Origin, Host")
def test_each_form_needs_a_session_a_token_and_the_desks_own_page(
    office: Path, enrolment: Path, desk: Desk, person: Person, run: Path, tries: Any
) -> None:
    id = given(person, enrolment).rpartition("/")[2]
    admit(office, load_enrolment(enrolment))
    fields = {"spoken": spoken_end(load_enrolment(enrolment).fingerprint), "name": "alba", "site": "x"}
    fields |= {"labels": "a,b", "positive": "b"}
    forms = (
        f"/applications/{id}/admit",
        f"/applications/{id}/remove",
        "/sites/alba/revoke",
        "/invite",
        "/applications",
    )
    stranger = Person(desk.port)
    stranger.base = person.base
    for path in (*forms, f"/runs/{run.name}/stop"):
        csrf, before = person.csrf, sorted(office.rglob("*"))
        assert person.send(path, **fields).status_code == 403
        assert person.send(path, csrf="x" * 43, **fields).status_code == 403
        assert person.send(path, csrf=csrf, headers={"Origin": "https://evil.example"}, **fields).status_code == 403
        assert person.send(path, csrf=csrf, headers={"Host": "evil.example"}, **fields).status_code == 421
        assert person.send(path, csrf=csrf, headers={"Sec-Fetch-Site": "cross-site"}, **fields).status_code == 403
        assert stranger.send(path, csrf=csrf, **fields).status_code == 401
        if path != "/invite":
            assert person.get(f"{path}?csrf={csrf}&name=alba").status_code == 405
        assert sorted(office.rglob("*")) == before
        assert names(office) == ["alba"]
        tries.add(7)


def test_the_rules_of_the_command_line_hold(
    office: Path, enrolment: Path, person: Person, tmp_path: Path, tiny: Tiny
) -> None:
    """A name that is admitted with another key is not taken over, whatever is typed."""
    admit(office, load_enrolment(enrolment))
    other = enrolled(tmp_path / "other", tiny)
    page = given(person, other)
    assert "a member with another key" in person.get(page).text
    with pytest.raises(FederationError) as by_command:
        admit(office, load_enrolment(other))
    answer = person.fill(page, f"{page}/admit", spoken=spoken_end(load_enrolment(other).fingerprint))
    assert answer.status_code == 400
    assert str(by_command.value).split(":")[0] in answer.text
    assert members(office)[0].enrolment == load_enrolment(enrolment)
