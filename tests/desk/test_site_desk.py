"""The site's desk: the same decisions as the command line, on pages that show foreign text harmlessly."""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import SimulationConfig, SiteConfig
from cdtl_core.config.settings import load_site, save_toml
from cdtl_core.deploy.approval_list import approvals
from cdtl_core.deploy.approvals import decide
from cdtl_core.deploy.enrolling import enrol_site
from cdtl_core.deploy.pending import keep_pending, pending
from cdtl_core.deploy.persons import make_person_key
from cdtl_core.deploy.refusing import refusals
from cdtl_core.deploy.request import ApprovalRequest, make_request, request_id, save_request
from cdtl_core.desk.desk import Desk
from cdtl_core.desk.doors import Doors
from cdtl_core.desk.site import site_desk
from cdtl_core.errors import ConfigError
from tests.deploy.desk import with_initial_weights
from tests.desk.person import Person, hidden_of, served

Tiny = Callable[..., SimulationConfig]
CODE = b"the code of a run"
SCRIPT = "<script>alert(1)</script>"
PHRASE = " correct horse "
READ = {"read": "yes"}
BY = {"approve_name": "Dr. Roe", "approve_reason": "ethics vote 17/26"}
NO = {"refuse_name": "Dr. Roe", "refuse_reason": "no ethics vote"}
PAGES = ("/", "/requests", "/runs", "/images", "/left", "/privacy", "/models", "/predict")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site that waits for its admission."""
    folder = tmp_path / "alba"
    save_toml(folder / "site.toml", {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}})
    return folder


@pytest.fixture
def request_(tiny: Tiny) -> ApprovalRequest:
    return make_request(with_initial_weights(tiny(federation={"sites": ["alba"]}).run), "a" * 64)


@pytest.fixture
def desk(home: Path) -> Iterator[Desk]:
    with served(lambda port, doors: site_desk(home, port, doors)) as found:
        yield found


def waiting(home: Path, request: ApprovalRequest, **settings: Any) -> str:
    """A run that the filter refused because it is not approved."""
    return keep_pending(home, CODE, {**request.settings, **settings}, run_id=1, reason="not approved").id


def decided(home: Path, id: str, own: SiteConfig | None = None) -> bool:
    found = approvals(home).get(id)
    own = own or load_site(home / "site.toml")
    return found is not None and decide(home, found.bundle_sha256, found.settings, own).approved is not None


def test_a_folder_without_a_site_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no site .* make one with cdtl site init"):
        site_desk(tmp_path, 1, Doors(1.0))


def test_every_page_of_an_empty_site_is_there(person: Person) -> None:
    for path in PAGES:
        answer = person.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.text.count("<h1>") == 1
        assert answer.text.count('aria-current="page"') == 1
    assert "This site has not enrolled yet." in person.get("/").text
    assert person.get("/enrolment.json").status_code == 404


def test_the_first_page_says_what_a_person_must_do(home: Path, person: Person, tiny: Tiny) -> None:
    enrolment = enrol_site(home, tiny().run)
    told = person.get("/").text
    assert enrolment.fingerprint in told
    assert "written, not admitted yet" in told
    assert "This site has no coordinator yet." in told
    assert f"cdtl site start {home}" in told
    assert person.get("/enrolment.json").json()["contract"]["site"] == "alba"


def test_a_run_is_read_and_approved_with_name_and_reason(home: Path, person: Person, request_: ApprovalRequest) -> None:
    id = waiting(home, request_)
    assert "The run tiny waits for your decision." in person.get("/").text
    read = person.get(f"/requests/{id}").text
    for part in ("not the code that is installed here", "Differential privacy: NONE", "Everything that may leave",
                 "1 run(s) of 3 rounds, 1 final evaluation(s)", "train.batch_size", "val_auroc (0 to 1)"):  # fmt: skip
        assert part in read
    path = f"/requests/{id}/approve"
    for fields, said in (
        ({**BY}, "confirm that you have read"),
        ({**BY, **READ, "approve_name": " "}, "give your name and a reason"),
        ({**BY, **READ, "approve_reason": ""}, "give your name and a reason"),
    ):
        answer = person.fill(f"/requests/{id}", path, **fields)
        assert answer.status_code == 400
        assert said in answer.text
        assert "ethics vote 17/26" in answer.text or not fields["approve_reason"]
        assert not decided(home, id)
    assert "The run tiny is approved." in person.fill(f"/requests/{id}", path, **BY, **READ).text
    assert decided(home, id)
    assert approvals(home)[id].note == "Dr. Roe: ethics vote 17/26"
    assert pending(home) == {}
    assert "Dr. Roe: ethics vote 17/26" in person.get("/left").text
    gone = {"withdraw_name": "Dr. Roe", "withdraw_reason": "second thoughts"}
    assert "is withdrawn" in person.fill(f"/requests/{id}", f"/requests/{id}/withdraw", **gone).text
    assert not decided(home, id)
    last = json.loads((home / "logs" / "approvals.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["note"]) == ("withdrawn", "Dr. Roe: second thoughts")


def test_a_run_is_refused_with_name_and_reason(home: Path, person: Person, request_: ApprovalRequest) -> None:
    id = waiting(home, request_)
    path = f"/requests/{id}/refuse"
    assert "give your name and a reason" in person.fill(f"/requests/{id}", path, refuse_name="Dr. Roe").text
    assert pending(home)
    assert "The run tiny is refused." in person.fill(f"/requests/{id}", path, **NO).text
    assert pending(home) == {}
    assert refusals(home)[id].note == "Dr. Roe: no ethics vote"
    told = person.get(f"/requests/{id}").text
    assert "Refused on" in told
    assert "Approve this run" in told


def test_a_request_from_a_file_is_read_and_a_wrong_file_is_named(
    home: Path, person: Person, request_: ApprovalRequest, tmp_path: Path
) -> None:
    save_request(tmp_path / "request.json", request_)
    given = {"request": ("request.json", (tmp_path / "request.json").read_bytes())}
    read = person.fill("/requests", "/requests", given)
    id = request_id(request_.bundle_sha256, request_.settings)
    assert read.url.path.endswith(f"/requests/{id}")
    assert "Run tiny" in read.text
    for name, content, said in (
        (f"{SCRIPT}.json", b"{}", "is wrong in"),
        ("invitation.json", b'{"kind": "invitation"}', "is an invitation, which site init takes"),
        ("deep.json", b"[" * 60_000, "is wrong in"),
        ("a.json", b"\xff\xfe", "is wrong in"),
    ):
        wrong = person.fill("/requests", "/requests", {"request": (name, content)})
        assert wrong.status_code == 400
        assert said in wrong.text
        assert "<script>" not in wrong.text
    assert "Choose the file" in person.fill("/requests", "/requests").text
    lie = request_.model_copy(update={"name": "harmless"})
    save_request(tmp_path / "request.json", lie)
    given = {"request": ("request.json", (tmp_path / "request.json").read_bytes())}
    read = person.fill("/requests", "/requests", given)
    assert "does not match its own settings" in read.text
    assert "Approve this run" not in read.text
    forced = person.send(f"/requests/{id}/approve", csrf=person.csrf, **BY, **READ)
    assert "does not match its own settings" in forced.text
    assert not decided(home, id)


def test_a_run_that_this_version_cannot_show_can_be_refused(home: Path, person: Person) -> None:
    id = keep_pending(home, CODE, {"name": "strange", "new.setting": 1}, run_id=1, reason="not approved").id
    told = person.get(f"/requests/{id}")
    assert (told.status_code, "cannot be shown or approved here" in told.text) == (200, True)
    assert "Approve this run" not in told.text
    assert person.send(f"/requests/{id}/approve", csrf=person.csrf, **BY, **READ).status_code == 400
    assert person.fill(f"/requests/{id}", f"/requests/{id}/refuse", refuse_name="Dr. Roe").status_code == 400
    assert pending(home)
    assert "The run strange is refused." in person.fill(f"/requests/{id}", f"/requests/{id}/refuse", **NO).text
    assert (pending(home), refusals(home)[id].name) == ({}, "strange")


def test_a_request_without_a_setting_of_a_run_is_shown_as_wrong(person: Person, request_: ApprovalRequest) -> None:
    bare = request_.model_copy(update={"settings": {"name": "tiny"}}).model_dump_json().encode()
    shown = person.fill("/requests", "/requests", {"request": ("request.json", bare)})
    assert (shown.status_code, "cannot be approved here" in shown.text) == (200, True)
    long = request_.model_copy(update={"sites": tuple(f"hospital-{number}" for number in range(6000))})
    shown = person.fill("/requests", "/requests", {"request": ("request.json", long.model_dump_json().encode())})
    assert "does not match its own settings" in shown.text


def test_what_is_approved_is_what_the_page_showed(home: Path, person: Person, request_: ApprovalRequest) -> None:
    id, tree = waiting(home, request_), tomllib.loads((home / "site.toml").read_text())
    old = hidden_of(person.get(f"/requests/{id}").text, "/approve")
    save_toml(home / "site.toml", {**tree, "site": "bora"})
    told = person.send(f"/requests/{id}/approve", **old, **BY, **READ)
    assert (told.status_code, "what the page showed is out of date" in told.text) == (400, True)
    save_toml(home / "site.toml", tree)
    person.fill(f"/requests/{id}", f"/requests/{id}/refuse", **NO)  # in another tab
    told = person.send(f"/requests/{id}/approve", **old, **BY, **READ)
    assert "what the page showed is out of date" in told.text
    assert not approvals(home)
    assert "is approved." in person.fill(f"/requests/{id}", f"/requests/{id}/approve", **BY, **READ).text
    assert decided(home, id)


@pytest.fixture
def keys(home: Path, tmp_path: Path) -> dict[str, bytes]:
    """Ana's and Ben's keys, both of whom must approve, and Eve's, who is a stranger."""
    public = {name: make_person_key(tmp_path / name, PHRASE) for name in ("Ana", "Ben", "Eve")}
    known = {name: key for name, key in public.items() if name != "Eve"}
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    save_toml(home / "site.toml", {**tree, "approval": {"people": 2, "keys": known}})
    return {name: (tmp_path / name).read_bytes() for name in public}


@pytest.mark.attack("Two people approve a run", "at the desk: one person twice, a stranger, no key, wrong passphrase")
def test_two_people_approve_a_run_each_with_a_key(
    home: Path, keys: dict[str, bytes], person: Person, request_: ApprovalRequest, tries: Any
) -> None:
    id = waiting(home, request_)

    def sign(name: str, key: str | None, passphrase: str = PHRASE) -> Any:
        files = {"key": (f"{key}.key", keys[key])} if key else None
        fields = {"approve_name": name, "approve_reason": "read", "passphrase": passphrase, **READ}
        return person.fill(f"/requests/{id}", f"/requests/{id}/approve", files, **fields)

    for name, key, phrase, said in (
        ("Ana", None, PHRASE, "choose your key file"),
        ("Ana", "Ana", "wrong horse", "the passphrase or the file is wrong"),
        ("Ana", "Eve", PHRASE, "does not name this key"),
        ("Eve", "Eve", PHRASE, "does not name this key"),
        ("Ben", "Ana", PHRASE, "does not name this key"),
        ("", "Ana", PHRASE, "give your name"),
    ):
        answer = sign(name, key, phrase)
        assert answer.status_code == 400
        assert said in answer.text
        assert phrase not in answer.text
        assert not approvals(home)
        tries.add()
    assert "another of Ben has to" in sign("Ana", "Ana").text
    assert "another of Ben has to" in sign("Ana", "Ana").text
    assert not decided(home, id)
    assert "another of Ben has to" in person.get("/").text
    assert "is approved." in sign("Ben", "Ben").text
    assert decided(home, id)


def test_what_the_first_person_approved_the_second_can_refuse(
    home: Path, keys: dict[str, bytes], person: Person, request_: ApprovalRequest
) -> None:
    id = waiting(home, request_)
    fields = {"approve_name": "Ana", "approve_reason": "read", "passphrase": PHRASE, **READ}
    person.fill(f"/requests/{id}", f"/requests/{id}/approve", {"key": ("k", keys["Ana"])}, **fields)
    assert approvals(home)
    person.fill(f"/requests/{id}", f"/requests/{id}/refuse", **NO)
    assert not approvals(home)
    assert refusals(home)


def test_a_lock_of_the_site_holds_at_the_desk_too(home: Path, person: Person, request_: ApprovalRequest) -> None:
    tree = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    id = waiting(home, request_)
    assert "Approve this run" in person.get(f"/requests/{id}").text
    save_toml(home / "site.toml", {**tree, "lock": {"train": {"steps": 1}}})
    told = person.get(f"/requests/{id}").text
    assert "this site fixes train.steps = 1 and the run has 2" in told
    assert "Approve this run" not in told
    forced = person.send(f"/requests/{id}/approve", csrf=person.csrf, **BY, **READ)
    assert "this site fixes train.steps" in forced.text
    assert not approvals(home)


@pytest.mark.attack(
    "Foreign text is shown, not executed", "a coordinator's settings, names of files, reasons of people"
)
def test_no_foreign_text_reaches_a_page_unescaped(
    home: Path, person: Person, request_: ApprovalRequest, tries: Any
) -> None:
    id = waiting(home, request_, **{"model.weights": f"{SCRIPT}.safetensors"})
    (home / "models" / "x").mkdir(parents=True)
    for number, text in enumerate((SCRIPT, "x\x1b[2J", "\u202e", '" onmouseover="x')):
        reason = {"refuse_name": text, "refuse_reason": text}
        person.send(f"/requests/{id}/refuse", csrf=person.csrf, **reason)
        for path in (*PAGES, f"/requests/{id}", "/requests/<script>alert(1)<script>", f"/models/{number}<script>"):
            shown = person.get(path).text
            assert "<script>" not in shown, path
            assert ' onmouseover="' not in shown
            assert "\x1b" not in shown
            assert "\u202e" not in shown
            tries.add()


def test_an_unknown_run_or_model_is_a_sentence(home: Path, person: Person) -> None:
    (home / "models").mkdir()
    for path in ("/requests/nothing", "/models/..%2f..", "/models/none", "/reports/none"):
        assert person.get(path).status_code in {400, 404}
    csrf = person.csrf
    for form in ("approve", "refuse", "withdraw"):
        assert person.send(f"/requests/nothing/{form}", csrf=csrf, **BY, **NO, **READ).status_code == 400
    assert not (home / "approvals").exists()
    assert not (home / "refused").exists()
