"""A site's application: valid ones pass, and each forgery gets its sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.deploy import enrolment as module
from cdtl_core.deploy.certificates import certificate_pem, make_authority, self_signed_client_certificate
from cdtl_core.deploy.enrolling import enrol_site, make_site
from cdtl_core.deploy.enrolment import Enrolment, load_enrolment, save_enrolment
from cdtl_core.deploy.keys import load_key, sign_json
from cdtl_core.errors import CdtlError, DataError, FederationError

Enrol = Callable[..., Enrolment]


def test_an_enrolment_survives_the_disk(enrol: Enrol, tmp_path: Path) -> None:
    made = enrol("north", statistics={"mean": 80.1, "std": 40.0}, label_map={"b\u00f6se": "malignant"})
    save_enrolment(tmp_path / "enrolment.json", made)
    assert load_enrolment(tmp_path / "enrolment.json") == made
    assert made.site == "north"
    assert "PRIVATE" not in (tmp_path / "enrolment.json").read_text()


def altered(made: Enrolment, path: Path, **change: Any) -> Path:
    content = made.model_dump(mode="json")
    for name, value in change.items():
        field, _, part = name.partition("__")
        if part:
            content[field][part] = value
        else:
            content[field] = value
    path.write_text(json.dumps(content))
    return path


def signed_again(path: Path, folder: Path) -> Path:
    """The forger holds a key: the signature is right, other parts are not."""
    content = json.loads(path.read_text())
    rest = {name: value for name, value in content.items() if name != "signature"}
    path.write_text(json.dumps({**rest, "signature": sign_json(load_key(folder), module._PURPOSE, rest)}))
    return path


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"contract__patients": 900}, FederationError, "not signed by its own key"),
        ({"contract__site": "south"}, FederationError, "not signed by its own key"),
        ({"signature": "AAAA"}, FederationError, "not signed by its own key"),
        ({"signature": "not base64"}, DataError, "wrong in signature"),
        ({"contract__modality": "sonar"}, DataError, r"wrong in contract\.modality"),
        ({"password": "x"}, DataError, "wrong in password"),
        ({"schema_version": 2}, DataError, "schema_version 2"),
        ({"public_key": "ssh-rsa AAAA"}, DataError, "wrong in public_key"),
    ],
)
def test_what_was_altered_is_refused(
    enrol: Enrol, tmp_path: Path, change: dict[str, Any], kind: type[CdtlError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        load_enrolment(altered(enrol("north"), tmp_path / "e.json", **change))


def test_another_sites_public_key_cannot_be_claimed(enrol: Enrol, tmp_path: Path) -> None:
    path = altered(enrol("north"), tmp_path / "e.json", public_key=enrol("south").public_key)
    with pytest.raises(FederationError, match="not signed"):
        load_enrolment(signed_again(path, tmp_path / "north"))


def test_a_certificate_must_be_of_the_same_key_and_site_and_no_authority(enrol: Enrol, tmp_path: Path) -> None:
    made, home = enrol("north"), tmp_path / "north"
    path = altered(made, tmp_path / "e.json", certificate=enrol("south").certificate)
    with pytest.raises(FederationError, match="does not match its public key"):
        load_enrolment(signed_again(path, home))
    path = altered(made, path, certificate=certificate_pem(self_signed_client_certificate(load_key(home), "south")))
    with pytest.raises(FederationError, match="for site north, but the certificate is for south"):
        load_enrolment(signed_again(path, home))
    for text in ("no PEM", made.certificate + enrol("south").certificate):
        path = altered(made, path, certificate=text)
        with pytest.raises(DataError, match="wrong in certificate"):
            load_enrolment(signed_again(path, home))


def test_a_certificate_that_could_issue_others_is_refused(
    enrol: Enrol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol("north")
    key = load_key(tmp_path / "north")
    monkeypatch.setattr("cdtl_core.deploy.certificates.ec.generate_private_key", lambda _: key)
    path = altered(
        enrol("north"), tmp_path / "e.json", certificate=certificate_pem(make_authority("north").certificate)
    )
    with pytest.raises(FederationError, match="could issue others"):
        load_enrolment(signed_again(path, tmp_path / "north"))


@pytest.mark.parametrize(("text", "says"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_file_that_is_no_enrolment_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "e.json"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        load_enrolment(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_enrolment(tmp_path / "absent.json")


def test_enrolling_again_keeps_the_certificate_that_was_admitted(tmp_path: Path) -> None:
    tree = {"site": "north", "modality": "ultrasound", "data": {"phantom": {"patients": 12}}}
    run = RunConfig.model_validate({"image": {"size": 32}, "model": {"backbone": "test_efficientnet"}})
    make_site(tmp_path, SiteConfig.model_validate(tree))
    first, again = enrol_site(tmp_path, run), enrol_site(tmp_path, run)
    assert (again.certificate, again.fingerprint) == (first.certificate, first.fingerprint)
    (tmp_path / "site.key").unlink()
    assert enrol_site(tmp_path, run).certificate != first.certificate
    assert load_enrolment(tmp_path / "enrolment.json").certificate == (tmp_path / "site.crt").read_text()
