"""Key changes at run time: of a site, of the server, of the authority; and notices before expiry."""

# mypy: disable-error-code=arg-type

import json
import logging
import shutil
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.deploy.authority import make_coordinator, renew_server, replace_authority
from cdtl_core.deploy.certificates import (
    Credential,
    certificate_pem,
    issue_server_certificate,
    load_credential,
    save_credential,
    self_signed_client_certificate,
)
from cdtl_core.deploy.enrolment import Enrolment, make_enrolment, save_enrolment
from cdtl_core.deploy.expiry import DailyNotices, coordinator_notices, site_notices
from cdtl_core.deploy.keys import KEY_FILE, load_key, make_key
from cdtl_core.deploy.members import OVERLAP, MemberBook, admit, members, renew, revoke
from cdtl_core.deploy.renewal import load_renewal, save_renewal
from cdtl_core.deploy.renewing import RENEWAL_FILE, adopt_key, finish_adoption, is_renewing, request_renewal
from cdtl_core.deploy.server_config import ServerConfig
from cdtl_core.errors import CdtlError, FederationError
from tests.conftest import Cdtl
from tests.deploy.entrance import FORMER, NODE, Coordinator, pull
from tests.tables import Tries

Tiny = Callable[..., SimulationConfig]
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def site(enrol: Any, tmp_path: Path) -> Path:
    """The folder of north, enrolled and admitted by the coordinator in `tmp_path`."""
    made: Enrolment = enrol("north")
    home = tmp_path / "north"
    save_enrolment(home / "enrolment.json", made)
    (home / "site.crt").write_text(made.certificate)
    admit(tmp_path, made)
    return home


def next_client(coordinator: Coordinator, home: Path) -> httpx.Client:
    """Shows the certificate of the next key."""
    key = load_key(home / "next")
    shutil.copyfile(home / "next" / "site.crt", home / "next" / "client.crt")
    certificate = self_signed_client_certificate(key, "x")  # only the key is wanted of it
    save_credential(Credential(certificate, key), home / "next" / "x.crt", home / "next" / "client.key")
    return coordinator.client("north/next")


def test_both_keys_are_let_in_during_the_overlap_and_the_former_one_no_longer_after_it(
    north: Coordinator, tmp_path: Path
) -> None:
    home = tmp_path / "north"
    save_enrolment(home / "enrolment.json", members(tmp_path)[0].enrolment)
    path = request_renewal(home)
    before, after = north.client("north"), next_client(north, home)
    former = {"url": "/v1/fleet/pull-messages", "headers": north.headers("north"), "content": pull(NODE + FORMER)}
    following = {**former, "headers": north.headers("north/next"), "content": pull(NODE)}
    with pytest.raises(httpx.HTTPError):
        after.post(**following)
    renew(tmp_path, load_renewal(path, tmp_path))
    after = next_client(north, home)
    assert after.post(**following).status_code == 503  # Flower does not know it yet: the site asks again
    north.register()
    assert before.post(**former).status_code == 200
    assert after.post(**following).status_code == 200
    file = tmp_path / "sites" / "north.json"  # the overlap ends now
    member = json.loads(file.read_text())
    member["former"]["valid_until"] = datetime.now(UTC).isoformat()
    file.write_text(json.dumps(member))
    assert before.post(**former).status_code == 401
    assert after.post(**former).status_code == 401
    assert after.post(**following).status_code == 200
    assert "unregistered key" in north.refused("unregistered key")["refused"]


def test_the_book_forgets_the_former_key_by_its_clock(site: Path, tmp_path: Path) -> None:
    now = [NOW]
    book = MemberBook(tmp_path, clock=lambda: now[0])
    former = members(tmp_path)[0].enrolment.fingerprint
    enrolment = load_renewal(request_renewal(site), tmp_path)
    renew(tmp_path, enrolment, now=NOW)
    assert set(book.by_key()) == {former, enrolment.fingerprint}
    assert book.by_key() is book.by_key()
    now[0] += OVERLAP - timedelta(seconds=1)
    assert former in book.by_key()
    now[0] += timedelta(seconds=1)
    assert set(book.by_key()) == {enrolment.fingerprint}


@pytest.mark.attack("Only a site's present key vouches for its next", "forged, altered, replayed, foreign renewals")
def test_a_renewal_that_the_present_key_does_not_vouch_for_is_refused(
    site: Path, enrol: Any, tmp_path: Path, tries: Tries
) -> None:
    first = load_key(site)
    made = json.loads(request_renewal(site).read_text())

    def refused(content: dict[str, Any], reason: str, **options: Any) -> None:
        tries.add()
        path = tmp_path / "forged.json"
        path.write_text(json.dumps(content))
        with pytest.raises(CdtlError, match=reason):
            load_renewal(path, tmp_path, **options)

    stranger = tmp_path / "stranger"
    stranger.mkdir()
    other = make_key(stranger)
    save_renewal(tmp_path / "own.json", make_enrolment(other, members(tmp_path)[0].enrolment.contract), other)
    refused(json.loads((tmp_path / "own.json").read_text()), "does not vouch")
    refused({**made, "voucher": "AAAA"}, "does not vouch")
    refused({**made, "voucher": "no base64"}, "cannot be read")
    refused({**made, "voucher": made["enrolment"]["signature"]}, "does not vouch")  # a signature for another purpose
    admit(tmp_path, enrol("south"))
    foreign = make_enrolment(other, members(tmp_path)[1].enrolment.contract)
    save_renewal(tmp_path / "south.json", foreign, first)
    refused(json.loads((tmp_path / "south.json").read_text()), "does not vouch")  # north's key for south
    enrolment = {**made["enrolment"], "contract": {**made["enrolment"]["contract"], "patients": 9000}}
    refused({**made, "enrolment": enrolment}, "altered")
    refused({**made, "more": 1}, "cannot be read")
    refused({**made, "enrolment": []}, "cannot be read")
    ends = datetime.now(UTC) + timedelta(days=366)
    refused(made, "expired on", now=ends)
    renew(tmp_path, load_renewal(site / RENEWAL_FILE, tmp_path))
    refused(made, "there is nothing to do")  # replayed
    adopt_key(site)
    renew(tmp_path, load_renewal(request_renewal(site), tmp_path))
    refused(made, "does not vouch")  # replayed after the next one: the former key vouches no more
    revoke(tmp_path, "north")
    refused(json.loads((site / RENEWAL_FILE).read_text()), "is not admitted")


def test_a_renewed_key_cannot_be_another_sites(site: Path, enrol: Any, tmp_path: Path) -> None:
    south: Enrolment = enrol("south")
    admit(tmp_path, south)
    contract = members(tmp_path)[0].enrolment.contract
    save_renewal(tmp_path / "r.json", make_enrolment(load_key(tmp_path / "south"), contract), load_key(site))
    with pytest.raises(FederationError, match="belongs to site south"):
        renew(tmp_path, load_renewal(tmp_path / "r.json", tmp_path))
    former = load_key(site)
    renew(tmp_path, load_renewal(request_renewal(site), tmp_path))
    with pytest.raises(FederationError, match="belongs to site north"):
        admit(tmp_path, make_enrolment(former, enrol("west").contract))


def test_the_change_of_keys_can_be_killed_at_any_file_and_is_finished(site: Path, tmp_path: Path) -> None:
    request_renewal(site)
    assert request_renewal(site) == site / RENEWAL_FILE  # again: the same key
    wanted = {name: (site / "next" / name).read_bytes() for name in (KEY_FILE, "site.crt", "enrolment.json")}
    for moved in range(4):
        home = tmp_path / f"killed{moved}"
        shutil.copytree(site, home)
        (home / "next" / "settled").touch()
        for name in list(wanted)[:moved]:
            (home / "next" / name).replace(home / name)
        finish_adoption(home)
        assert {name: (home / name).read_bytes() for name in wanted} == wanted
        assert not is_renewing(home)
        assert not (home / RENEWAL_FILE).exists()
    finish_adoption(site)  # nothing was settled: nothing changes
    assert is_renewing(site)


def test_the_gateway_shows_a_renewed_certificate_without_a_restart(north: Coordinator) -> None:
    def shown() -> bytes:
        context = ssl.create_default_context(cafile=north.home / "ca.crt")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return ssl.get_server_certificate(("127.0.0.1", north.port), ca_certs=str(north.home / "ca.crt")).encode()

    before, kept = shown(), north.client("north")
    asked = {"url": "/v1/fleet/pull-messages", "headers": north.headers("north"), "content": pull(NODE)}
    assert kept.post(**asked).status_code == 200
    authority = load_credential(north.home / "ca.crt", north.home / "ca.key")
    renewed = issue_server_certificate(authority, ["localhost", "127.0.0.1"])
    save_credential(renewed, north.home / "server.crt", north.home / "server.key")
    assert shown() == certificate_pem(renewed.certificate).encode() != before
    assert kept.post(**asked).status_code == 200  # goes on
    (north.home / "server.key").write_text("damaged")
    assert shown() == certificate_pem(renewed.certificate).encode()  # the one before stays
    assert north.ask("north").status_code == 200


def test_a_new_authority_is_introduced_before_it_signs(tmp_path: Path) -> None:
    folder, config = tmp_path / "coordinator", ServerConfig(names=("localhost",))
    make_coordinator(folder, config)
    ca, served = folder / "tls" / "ca.crt", folder / "tls" / "server.crt"
    before = ca.read_bytes()

    def trusted(authorities: bytes) -> bool:
        """A handshake in memory, by a client that trusts these."""
        context = ssl.create_default_context(cadata=authorities.decode())
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(served, folder / "tls" / "server.key")
        one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [context.wrap_bio(one, two, server_hostname="localhost"), server.wrap_bio(two, one, server_side=True)]
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLCertVerificationError:
                    return False
        return True

    replace_authority(folder, config)
    assert trusted(before)
    assert trusted(ca.read_bytes())
    renew_server(folder, config)
    assert trusted(ca.read_bytes())
    assert not trusted(before)
    replace_authority(folder, config)
    assert ca.read_bytes().count(b"BEGIN CERTIFICATE") == 2  # the oldest is dropped


def test_what_expires_is_said_30_days_ahead_and_when_it_has_expired(
    site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "coordinator"
    make_coordinator(folder, ServerConfig(names=("localhost",)))
    admit(folder, members(tmp_path)[0].enrolment)
    shutil.copyfile(folder / "tls" / "ca.crt", site / "coordinator.crt")
    (site / "coordinator.json").write_text(json.dumps({"host": "h", "port": 1, "ca": "coordinator.crt"}))
    now = datetime.now(UTC)
    for days, of_site, of_coordinator in (
        (330, [], []),
        (345, ["ends on"], ["ends on"] * 2),
        (366, ["expired on"], ["expired on"] * 2),
    ):
        told = site_notices(site, now + timedelta(days=days)), coordinator_notices(folder, now + timedelta(days=days))
        for found, wanted in zip(told, (of_site, of_coordinator), strict=True):
            assert len(found) == len(wanted), found
            assert all(what in text for what, text in zip(wanted, found, strict=True)), found
    assert any("site north" in text for text in told[1])
    assert len(coordinator_notices(folder, now + timedelta(days=3640))) == 3  # its authority, too
    clock = [now + timedelta(days=345)]
    notices = DailyNotices(lambda at: site_notices(site, at), lambda: clock[0])
    with caplog.at_level(logging.WARNING, "cdtl.deploy"):
        for hours in (0, 1, 23, 1, 24):
            clock[0] += timedelta(hours=hours)
            notices.say()
    assert len([record for record in caplog.records if "this site's certificate ends on" in record.message]) == 3


def test_an_expired_site_is_refused_with_a_sentence_and_comes_in_again_with_the_same_key(
    coordinator: Coordinator, enrol: Any, tmp_path: Path
) -> None:
    home = tmp_path / "north"
    key = load_key(home) if (home / KEY_FILE).exists() else make_key(tmp_path / "north")
    contract = enrol("north").contract
    long_ago = datetime.now(UTC) - timedelta(days=366)
    old = make_enrolment(key, contract, self_signed_client_certificate(key, "north", now=long_ago))
    admit(tmp_path, old)
    (home / "client.crt").write_text(old.certificate)
    save_credential(Credential(self_signed_client_certificate(key, "north"), key), home / "x.crt", home / "client.key")
    coordinator.start()
    with pytest.raises(httpx.HTTPError):
        coordinator.ask("north")
    assert coordinator.refused("expired")["refused"] == "client certificate has expired"
    fresh = make_enrolment(key, contract)
    admit(tmp_path, fresh)
    (home / "client.crt").write_text(fresh.certificate)
    coordinator.register()
    assert coordinator.ask("north").status_code == 200


def test_the_desks_renew_with_one_command_each(cdtl: Cdtl, site: Path, tmp_path: Path) -> None:
    assert cdtl("server", "init", "office", "--name", "localhost").code == 0
    assert cdtl("server", "admit", "office", site / "enrolment.json", "--yes").code == 0
    assert "no telephone call" in cdtl("site", "renew", site).out
    done = cdtl("server", "admit", "office", site / RENEWAL_FILE, "--yes")
    assert done.code == 0
    assert "north has a new key; its former key is also valid until" in done.out
    status = json.loads(cdtl("server", "status", "office", "--json").out)
    assert status["notices"] == []
    assert "holds the new and the previous authority" in cdtl("server", "renew", "office", "--new-authority").out
    assert "at once" in cdtl("server", "renew", "office").out
