"""A site's application to join: its contract, its key and client certificate, and proof that it holds the key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.config.schema import first_fault
from cdtl_core.deploy.certificates import PEM, certificate_pem, self_signed_client_certificate
from cdtl_core.deploy.keys import fingerprint, is_signed, public_line, read_public_line, sign_json
from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation.contract import ModalityContract
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["Enrolment", "check_enrolment", "load_enrolment", "make_enrolment", "save_enrolment"]

SCHEMA_VERSION = 1
_PURPOSE = b"cdtl enrolment\n"  # the site's key signs other things too


class Enrolment(BaseModel):
    """A site's application.

    Attributes:
        contract: What it publishes about its cohort.
        public_key: One OpenSSH line, P-384.
        certificate: Its self-signed TLS client certificate, PEM, of the same key.
        signature: Base64 of ECDSA with SHA-384 by that key over all the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    contract: ModalityContract
    public_key: str = Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/]{1,400}={0,2}$")
    certificate: str = Field(pattern=f"^{PEM}$")
    signature: str = Field(pattern=r"^[A-Za-z0-9+/]{1,400}={0,2}$")

    @property
    def site(self) -> str:
        """The site's name."""
        return self.contract.site

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint, compared by telephone before the site is admitted."""
        return fingerprint(read_public_line(self.public_key))


def make_enrolment(
    key: ec.EllipticCurvePrivateKey, contract: ModalityContract, certificate: x509.Certificate | None = None
) -> Enrolment:
    """Return the application of the site named in `contract`, signed with its key.

    Args:
        key: The site's key.
        contract: What the site publishes about its cohort.
        certificate: The client certificate; None: a new one.
    """
    certificate_text = certificate_pem(certificate or self_signed_client_certificate(key, contract.site))
    rest = {
        "schema_version": SCHEMA_VERSION,
        "contract": contract.model_dump(mode="json"),
        "public_key": public_line(key.public_key()),
        "certificate": certificate_text,
    }
    return Enrolment.model_validate({**rest, "signature": sign_json(key, _PURPOSE, rest)})


def save_enrolment(path: Path, enrolment: Enrolment) -> None:
    """Write an enrolment as JSON, atomically."""
    replace_json(path, enrolment.model_dump(mode="json"))


def load_enrolment(path: Path) -> Enrolment:
    """Read and verify an enrolment.

    Raises:
        DataError: The file is no enrolment of this schema, or holds no P-384 key or no certificate.
        FederationError: Its parts do not belong together; the sentence says which.
    """
    content = _read(path)
    enrolment = _parse(content, path)
    check_enrolment(content, enrolment)
    return enrolment


def check_enrolment(content: Mapping[str, Any], enrolment: Enrolment) -> None:
    """Verify an enrolment against the very content it was parsed from.

    Raises:
        DataError: It holds no P-384 key or no certificate.
        FederationError: Its parts do not belong together; the sentence says which.
    """
    key = read_public_line(enrolment.public_key)
    _check_signature(content, enrolment, key)
    _check_certificate(enrolment, key)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the enrolment {path} cannot be read ({error.strerror}): check the path.") from None
    except ValueError:
        raise DataError(f"the enrolment {path} is not JSON: ask the site for it again.") from None
    if not isinstance(content, dict):
        raise DataError(f"the enrolment {path} is not a JSON object: ask the site for it again.")
    return content


def _parse(content: Mapping[str, Any], path: Path) -> Enrolment:
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(f"the enrolment {path} has schema_version {version}: this cdtl reads {SCHEMA_VERSION}.")
    try:
        return Enrolment.model_validate(content)
    except ValidationError as error:
        raise DataError(f"the enrolment {path} is wrong in {first_fault(error)}: ask the site for it again.") from None


def _check_signature(content: Mapping[str, Any], enrolment: Enrolment, key: ec.EllipticCurvePublicKey) -> None:
    # verify the file's own content, not the parsed model: a later default must not break an old signature
    rest = {name: value for name, value in content.items() if name != "signature"}
    if not is_signed(key, _PURPOSE, rest, enrolment.signature):
        raise FederationError(
            f"the enrolment of site {enrolment.site} is not signed by its own key, so it was altered: ask for it again."
        )


def _check_certificate(enrolment: Enrolment, key: ec.EllipticCurvePublicKey) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(enrolment.certificate.encode())
        certified = certificate.public_key()
        if certificate_pem(certificate) != enrolment.certificate:
            raise ValueError  # more than one certificate: each would be trusted
    except ValueError:
        raise DataError(
            f"the certificate of site {enrolment.site} cannot be read: ask for the enrolment again."
        ) from None
    if certified != key:
        raise FederationError(
            f"the certificate of site {enrolment.site} does not match its public key: ask it to enrol again."
        )
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [enrolment.site]:
        raise FederationError(
            f"the contract is for site {enrolment.site}, but the certificate is for {', '.join(names) or 'no site'}: "
            "ask the site to enrol again."
        )
    if _is_authority(certificate):
        raise FederationError(
            f"the certificate of site {enrolment.site} could issue others: ask the site to make it with cdtl."
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return True  # without this extension OpenSSL accepts a self-signed certificate as an authority
    except ValueError:
        return True
