"""A site's new key, vouched for by the key that the coordinator knows, so that no telephone call is needed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.deploy.enrolment import Enrolment, check_enrolment
from cdtl_core.deploy.keys import is_signed, read_public_line, sign_json
from cdtl_core.deploy.members import members
from cdtl_core.errors import DataError, FederationError
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["Renewal", "is_renewal", "load_renewal", "save_renewal"]

_PURPOSE = b"cdtl renewal\n"  # the site's key signs other things too


class Renewal(BaseModel):
    """A site's application to use another key.

    Attributes:
        enrolment: With the new key and its certificate, signed by the new key.
        voucher: Base64 of ECDSA with SHA-384 over `enrolment`, by the key that the coordinator knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["renewal"] = "renewal"
    enrolment: Enrolment
    voucher: str = Field(pattern=r"^[A-Za-z0-9+/]{1,400}={0,2}$")


def save_renewal(path: Path, enrolment: Enrolment, present: ec.EllipticCurvePrivateKey) -> None:
    """Write the application for the key of `enrolment`, vouched for by the `present` key.

    Args:
        path: The file.
        enrolment: With the new key.
        present: The key that the coordinator knows.
    """
    content = enrolment.model_dump(mode="json")
    voucher = sign_json(present, _PURPOSE, content)
    replace_json(path, {"kind": "renewal", "enrolment": content, "voucher": voucher})


def is_renewal(path: Path) -> bool:
    """Whether a file is a renewal and not a first enrolment."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == "renewal"


def load_renewal(path: Path, folder: Path, *, now: datetime | None = None) -> Enrolment:
    """Read a renewal and verify it against the key that the coordinator in `folder` knows for this site.

    Args:
        path: The file.
        folder: The coordinator's folder.
        now: The current time.

    Raises:
        DataError: The file is no renewal, or its key or certificate cannot be read.
        FederationError: The site is not admitted, or its present key does not vouch, or has expired.
    """
    try:
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        renewal = Renewal.model_validate(content)
    except (OSError, ValueError, ValidationError) as error:
        raise DataError(f"the renewal {path} cannot be read ({type(error).__name__}): ask the site for it.") from None
    enrolment = renewal.enrolment
    check_enrolment(content["enrolment"], enrolment)
    known = {member.site: member for member in members(folder)}.get(enrolment.site)
    if known is None or known.revoked_at is not None:
        raise FederationError(
            f"site {enrolment.site} is not admitted, so its key cannot vouch for another: ask for its enrolment.json."
        )
    present = known.enrolment
    if enrolment.fingerprint == present.fingerprint:
        raise FederationError(f"site {enrolment.site} already has this key: there is nothing to do.")
    if _ends(present.certificate) <= (now or datetime.now(UTC)):
        raise FederationError(
            f"the key of site {enrolment.site} expired on {_ends(present.certificate):%Y-%m-%d}, so it cannot vouch "
            "for another: revoke the site, ask for its enrolment.json and compare the fingerprint by telephone."
        )
    _check_voucher(renewal.voucher, content["enrolment"], enrolment.site, read_public_line(present.public_key))
    return enrolment


def _check_voucher(voucher: str, content: Any, site: str, present: ec.EllipticCurvePublicKey) -> None:
    if not is_signed(present, _PURPOSE, content, voucher):
        raise FederationError(
            f"the known key of site {site} does not vouch for this renewal: it was altered, or made with "
            "another key; ask the site for its enrolment.json and compare the fingerprint by telephone."
        )


def _ends(certificate: str) -> datetime:
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc
