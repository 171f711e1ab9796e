"""A coordinator's invitation: one file with all that a hospital would have to type, and nothing secret.

It holds address, authority and labels, signed with the key of the server's certificate. An altered field is refused
here. A file in which everything was replaced, the authority too, has another fingerprint: it is compared by telephone.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.config import TaskConfig
from cdtl_core.config.schema import Line, SiteName, first_fault
from cdtl_core.deploy.certificates import PEM, certificate_pem, load_credential, names_of
from cdtl_core.deploy.coordinator_address import CoordinatorAddress, store_address
from cdtl_core.deploy.keys import fingerprint, is_signed, sign_json
from cdtl_core.deploy.server_config import load_server
from cdtl_core.errors import ConfigError, DataError, FederationError
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["INVITATION_FILE", "Invitation", "accept_invitation", "kept_invitation", "load_invitation"]
__all__ += ["make_invitation", "save_invitation"]

INVITATION_FILE = "invitation.json"
"""Name of the site's copy in its folder."""
_PURPOSE = b"cdtl invitation\n"  # the server's key signs TLS handshakes too
_AGAIN = "ask the coordinator for it again"


class Invitation(BaseModel):
    """What a site needs to know of its coordinator.

    Attributes:
        site: Name of the invited site.
        host: Name or address of the coordinator.
        port: Its public port.
        task: The labels that the federation predicts.
        authority: ``ca.crt``: one or two PEM certificates.
        certificate: The server's certificate at this time, PEM, issued by the authority.
        signature: By the key of `certificate`, over all the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["invitation"] = "invitation"
    schema_version: Literal[1] = 1
    site: SiteName
    host: Line = Field(min_length=1, max_length=253)
    port: int = Field(ge=1, le=65535)
    task: TaskConfig
    authority: str = Field(pattern=f"^({PEM}){{1,2}}$")
    certificate: str = Field(pattern=f"^{PEM}$")
    signature: str = Field(pattern=r"^[A-Za-z0-9+/]{1,400}={0,2}$")

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the authority's key, which is compared by telephone."""
        key = _authority_key(self)
        assert key is not None  # noqa: S101 (checked when it was made or loaded)
        return fingerprint(key)

    @property
    def until(self) -> datetime:
        """End of its validity, that of the server's certificate."""
        return x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc


def make_invitation(folder: Path, site: str, task: TaskConfig) -> Invitation:
    """Return the invitation of a site to the coordinator of a folder.

    Args:
        folder: The coordinator's folder.
        site: Name of the site.
        task: The labels that the federation predicts.

    Raises:
        ConfigError: The folder holds no coordinator, the site's name is not allowed, or the server's certificate does
            not hold the coordinator's name.
    """
    server, tls = load_server(folder), folder / "tls"
    credential = load_credential(tls / "server.crt", tls / "server.key")
    host = server.names[0]
    if host not in names_of(credential.certificate):
        raise ConfigError(
            f"the server's certificate does not hold the name {host} of server.toml: run cdtl server renew {folder}."
        )
    rest = {
        "kind": "invitation",
        "schema_version": 1,
        "site": site,
        "host": host,
        "port": server.port,
        "task": task.model_dump(mode="json"),
        "authority": (tls / "ca.crt").read_text(encoding="ascii"),
        "certificate": certificate_pem(credential.certificate),
    }
    try:
        invitation = Invitation.model_validate({**rest, "signature": sign_json(credential.key, _PURPOSE, rest)})
    except ValidationError as error:
        raise ConfigError(_fault(site, first_fault(error))) from None
    if _authority_key(invitation) is None:
        raise ConfigError(f"{tls / 'ca.crt'} did not issue the server's certificate: run cdtl server renew {folder}.")
    return invitation


def save_invitation(path: Path, invitation: Invitation) -> None:
    """Write an invitation as JSON, atomically."""
    replace_json(path, invitation.model_dump(mode="json"))


def load_invitation(path: Path, *, now: datetime | None = None) -> Invitation:
    """Read an invitation and verify it.

    Args:
        path: The file.
        now: The current time.

    Raises:
        DataError: The file is no invitation.
        FederationError: It was altered, or is not valid any more.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the invitation {path} cannot be read ({error.strerror}): check the path.") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("kind") != "invitation":
        raise DataError(f"{path} is not an invitation: give the file that cdtl server invite wrote.")
    try:
        invitation = Invitation.model_validate(content)
    except ValidationError as error:
        raise DataError(f"the invitation {path} is wrong in {first_fault(error)}: {_AGAIN}.") from None
    _check(invitation, content, path, now or datetime.now(UTC))
    return invitation


def accept_invitation(home: Path, invitation: Invitation) -> None:
    """Keep an invitation in a site's folder, and store the coordinator's address and authority."""
    save_invitation(home / INVITATION_FILE, invitation)
    address = CoordinatorAddress(host=invitation.host, port=invitation.port)
    store_address(home, address, invitation.authority.encode("ascii"))


def kept_invitation(home: Path) -> TaskConfig | None:
    """Return the labels of the invitation that a site accepted; None if it has none.

    Raises:
        DataError: The site's copy is damaged.
    """
    path = home / INVITATION_FILE
    if not path.exists():
        return None
    try:
        return Invitation.model_validate_json(path.read_bytes()).task
    except (OSError, ValidationError):
        raise DataError(f"{path} is damaged: give the invitation again with --invite.") from None


def _fault(site: str, fault: str) -> str:
    if fault.startswith("site "):
        return (
            f"'{site}' cannot be the name of a site: use a-z, 0-9, - and _, at most 48 characters, beginning with a "
            "letter or a digit."
        )
    return f"the invitation of {site} cannot be made: {fault}."


def _check(invitation: Invitation, content: Mapping[str, Any], path: Path, now: datetime) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(invitation.certificate.encode())
        key = certificate.public_key()
    except ValueError:
        raise DataError(f"the certificate in the invitation {path} cannot be read: {_AGAIN}.") from None
    rest = {name: value for name, value in content.items() if name != "signature"}
    signed = isinstance(key, ec.EllipticCurvePublicKey) and is_signed(key, _PURPOSE, rest, invitation.signature)
    if not signed or _authority_key(invitation) is None:
        raise FederationError(
            f"the invitation {path} is not signed by the coordinator that it names, so it was altered: {_AGAIN}, "
            "and compare the fingerprint by telephone."
        )
    if invitation.host not in names_of(certificate):
        raise FederationError(
            f"the invitation {path} is for {invitation.host}, and its certificate is for "
            f"{', '.join(names_of(certificate)) or 'no name'}: {_AGAIN}."
        )
    if now >= certificate.not_valid_after_utc:
        raise FederationError(
            f"the invitation {path} was valid until {certificate.not_valid_after_utc:%Y-%m-%d}: ask the coordinator "
            "for a new one."
        )


def _authority_key(invitation: Invitation) -> ec.EllipticCurvePublicKey | None:
    """Return the key of the authority that issued the server's certificate; None if there is none in the file."""
    certificate = x509.load_pem_x509_certificate(invitation.certificate.encode())
    try:
        authorities = x509.load_pem_x509_certificates(invitation.authority.encode())
    except ValueError:
        return None
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        key = authority.public_key()
        return key if isinstance(key, ec.EllipticCurvePublicKey) else None
    return None
