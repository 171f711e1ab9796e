"""`cdtl server invite` and `cdtl site init --invite`: a hospital types no address, no name and no labels."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.deploy.coordinator_address import load_address
from cdtl_core.deploy.enrolment import load_enrolment
from cdtl_core.deploy.invitation import load_invitation
from cdtl_core.errors import FederationError
from tests.conftest import Cdtl

STUDY = """
name = "study"
[task]
labels = ["sano", "enfermo"]
positive = "enfermo"
"""
MAPPED = ("--phantom", "16", "--map", "benign=sano", "--map", "malignant=enfermo", "--modality", "ultrasound")


@pytest.fixture
def invited(cdtl: Cdtl, tmp_path: Path) -> str:
    """What `server invite` prints; the invitation is in hub/invitations/north.json."""
    (tmp_path / "study.toml").write_text(STUDY)
    assert cdtl("server", "init", "hub", "--name", "localhost", "--name", "127.0.0.1", "--port", "8555").code == 0
    done = cdtl("server", "invite", "hub", "north", "--config", "study.toml")
    assert done.code == 0, done.err
    return done.out


def test_the_invitation_stands_for_name_address_authority_and_labels(invited: str, cdtl: Cdtl, tmp_path: Path) -> None:
    assert "Send hub/invitations/north.json. It holds nothing secret" in invited
    assert "sano, enfermo (positive: enfermo)" in invited
    assert "There: cdtl site init north-site --invite north.json" in invited, "no folder of images has this name"
    file = tmp_path / "hub" / "invitations" / "north.json"
    assert "PRIVATE" not in file.read_text()
    made = cdtl("site", "init", "north", "--invite", file, *MAPPED)
    assert made.code == 0, made.err
    fingerprint = load_invitation(file).fingerprint
    assert fingerprint in invited
    assert fingerprint in made.out, "both ends show the same fingerprint to compare by telephone"
    address = load_address(tmp_path / "north")
    assert (address.host, address.port) == ("localhost", 8555)
    assert (tmp_path / "north" / address.ca).read_bytes() == (tmp_path / "hub" / "tls" / "ca.crt").read_bytes()
    contract = load_enrolment(tmp_path / "north" / "enrolment.json").contract
    assert (contract.site, contract.labels, contract.positive) == ("north", ("sano", "enfermo"), "enfermo")
    assert "--server" not in made.out
    again = cdtl("site", "init", "north")
    assert again.code == 0, "the labels are known without options too"
    assert cdtl("server", "admit", "hub", "north/enrolment.json", "--yes").code == 0


def altered(content: dict[str, Any], name: str, other: dict[str, Any]) -> dict[str, Any]:
    """Another port, label, host; or the authority, or all but the site, of another coordinator."""
    changes: dict[str, Callable[[], dict[str, Any]]] = {
        "port": lambda: {"port": 8556},
        "host": lambda: {"host": "127.0.0.1"},
        "site": lambda: {"site": "south"},
        "labels": lambda: {"task": {"labels": ["sano", "enfermo", "x"], "positive": "enfermo"}},
        "authority": lambda: {"authority": other["authority"]},
        "certificate": lambda: {"certificate": other["certificate"]},
        "both": lambda: {"authority": other["authority"], "certificate": other["certificate"]},
    }
    return {**content, **changes[name]()}


@pytest.mark.parametrize("name", ["port", "host", "site", "labels", "authority", "certificate", "both"])
@pytest.mark.attack("an altered invitation is refused", "one field is changed")
def test_an_altered_invitation_is_refused(invited: str, cdtl: Cdtl, tmp_path: Path, name: str) -> None:
    assert cdtl("server", "init", "other", "--name", "localhost").code == 0
    assert cdtl("server", "invite", "other", "north").code == 0
    own, other = (json.loads((tmp_path / hub / "invitations/north.json").read_text()) for hub in ("hub", "other"))
    (tmp_path / "forged.json").write_text(json.dumps(altered(own, name, other)))
    done = cdtl("site", "init", "north", "--invite", "forged.json", *MAPPED)
    assert done.code == 7
    assert "is not signed by the coordinator that it names, so it was altered" in done.err
    assert not (tmp_path / "north").exists()


def test_a_replaced_invitation_has_another_fingerprint(invited: str, cdtl: Cdtl, tmp_path: Path) -> None:
    """Who replaces everything signs with an authority of their own: the telephone call is for this case."""
    assert cdtl("server", "init", "other", "--name", "localhost", "--port", "8555").code == 0
    assert cdtl("server", "invite", "other", "north", "--config", "study.toml").code == 0
    made = cdtl("site", "init", "north", "--invite", "other/invitations/north.json", *MAPPED)
    assert made.code == 0
    assert load_invitation(tmp_path / "hub" / "invitations" / "north.json").fingerprint not in made.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--invite", "study.toml"), 4, "study.toml is not an invitation: give the file that cdtl server invite wrote"),
        (("--invite", "none.json"), 4, "none.json cannot be read"),
        (("--invite", "hub/invitations/north.json", "--name", "south"), 3, "is for the site north, not south"),
        (("--invite", "hub/invitations/north.json", "--labels", "a,b"), 2, "leave out --labels and --positive"),
    ],
)
def test_a_wrong_file_or_option_gets_a_sentence(
    invited: str, cdtl: Cdtl, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = cdtl("site", "init", "north", *MAPPED, *arguments)
    assert (done.code, says in done.err) == (code, True), done.err


def test_an_invitation_ends_with_the_servers_certificate(invited: str, tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"was valid until .*: ask the coordinator for a new one"):
        load_invitation(tmp_path / "hub" / "invitations" / "north.json", now=datetime.now(UTC) + timedelta(days=366))


def test_the_coordinator_cannot_invite_what_no_site_is_named(invited: str, cdtl: Cdtl) -> None:
    done = cdtl("server", "invite", "hub", "https://north")
    assert done.code == 3
    assert "'https://north' cannot be the name of a site: use a-z, 0-9, - and _" in done.err


def test_an_invitation_holds_after_the_authority_was_replaced(invited: str, cdtl: Cdtl, tmp_path: Path) -> None:
    """``ca.crt`` then holds two authorities; the server's certificate is still of the former."""
    before = load_invitation(tmp_path / "hub" / "invitations" / "north.json")
    assert cdtl("server", "renew", "hub", "--new-authority").code == 0
    assert cdtl("server", "invite", "hub", "north").code == 0
    after = load_invitation(tmp_path / "hub" / "invitations" / "north.json")
    assert after.fingerprint == before.fingerprint
    assert after.authority.count("BEGIN CERTIFICATE") == 2


def test_what_has_a_label_comes_with_the_invitation_or_is_said(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('name = "study"\n[task]\nunit = "exam"\n')
    assert cdtl("server", "init", "hub", "--name", "localhost").code == 0
    done = cdtl("server", "invite", "hub", "north", "--config", "study.toml")
    assert "(positive: malignant), one for each exam" in done.out
    told = ("--phantom", "16", "--modality", "ultrasound")
    assert cdtl("site", "init", "north", "--invite", "hub/invitations/north.json", *told).code == 0
    assert cdtl("site", "init", "south", "--name", "south", "--unit", "patient", *told).code == 0
    assert cdtl("site", "init", "west", "--name", "west", *told).code == 0
    for name, unit in (("north", "exam"), ("south", "patient"), ("west", "image")):
        assert cdtl("site", "init", name).code == 0, "it is known without options too"
        assert load_enrolment(tmp_path / name / "enrolment.json").contract.unit == unit
        shown = cdtl("server", "admit", "hub", f"{name}/enrolment.json", "--yes").out
        assert (f"one label for each {unit}" in shown) is (unit != "image")


def test_a_new_invitation_counts_more_than_the_last_enrolment(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('name = "study"\n[task]\nunit = "exam"\n')
    told = ("--phantom", "16", "--modality", "ultrasound")
    assert cdtl("site", "init", "north", "--name", "north", *told).code == 0
    assert cdtl("server", "init", "hub", "--name", "localhost").code == 0
    assert cdtl("server", "invite", "hub", "north", "--config", "study.toml").code == 0
    assert cdtl("site", "init", "north", "--invite", "hub/invitations/north.json").code == 0
    assert load_enrolment(tmp_path / "north" / "enrolment.json").contract.unit == "exam"
