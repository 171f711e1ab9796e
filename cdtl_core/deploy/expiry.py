"""Notices about certificates that expire soon and a full disk: for the status, and once a day for the logs."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from cdtl_core.deploy.certificates import expiry
from cdtl_core.deploy.filter import CERTIFICATE_FILE
from cdtl_core.deploy.members import members
from cdtl_core.deploy.renewing import is_renewing
from cdtl_core.errors import CdtlError
from cdtl_core.system.foreign import get_logger, read_json

__all__ = ["NOTICE", "Certificate", "DailyNotices", "coordinator_certificates", "coordinator_notices", "site_notices"]

NOTICE = timedelta(days=30)
"""How long before its end a certificate is mentioned."""
_LITTLE_GB = 5.0
"""A run writes checkpoints and models: a disk with less free space is mentioned."""
_DAY = timedelta(days=1)
_log = get_logger("cdtl.deploy")


@dataclass(frozen=True)
class Certificate:
    """Whose certificate it is, when it ends, and what to do then."""

    what: str
    ends: datetime
    do: str

    def notice(self, now: datetime) -> str:
        """Return a sentence if it has expired or ends within `NOTICE`; else an empty text."""
        return _notice(self.what, self.ends, now, self.do)


def coordinator_notices(folder: Path, now: datetime | None = None) -> list[str]:
    """Return a sentence for each certificate of a coordinator or its sites that has expired or ends within `NOTICE`."""
    now = now or datetime.now(UTC)
    return [text for text in _of_coordinator(folder, now) if text]


def site_notices(home: Path, now: datetime | None = None) -> list[str]:
    """Return notices about a site's certificate, its coordinator's authority, and a key that waits for admission."""
    now = now or datetime.now(UTC)
    return [text for text in _of_site(home, now) if text]


class DailyNotices:
    """Logs the notices at the first call and then once a day."""

    def __init__(
        self, notices: Callable[[datetime], list[str]], clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._notices, self._clock = notices, clock
        self._next: datetime | None = None

    def say(self) -> None:
        """Log the notices that are due."""
        now = self._clock()
        if self._next is not None and now < self._next:
            return
        self._next = now + _DAY
        try:
            for text in self._notices(now):
                _log.warning("%s", text)
        except CdtlError as error:
            _log.warning("%s", error)


def coordinator_certificates(folder: Path, now: datetime | None = None) -> Iterator[Certificate]:
    """Return the certificates of a coordinator, its authority, and its sites that are not revoked."""
    now = now or datetime.now(UTC)
    yield Certificate("this coordinator's certificate", expiry(folder / "tls" / "server.crt"), _RENEW_SERVER)
    yield Certificate("the certificate of this coordinator's authority", expiry(folder / "tls" / "ca.crt"), _AUTHORITY)
    for member in members(folder):
        if member.revoked_at is None:
            ends = x509.load_pem_x509_certificate(member.enrolment.certificate.encode()).not_valid_after_utc
            do = _ENROL_SITE if now >= ends else _RENEW_SITE
            yield Certificate(f"the certificate of site {member.site}", ends, do)


def _of_coordinator(folder: Path, now: datetime) -> Iterator[str]:
    yield from (one.notice(now) for one in coordinator_certificates(folder, now))
    free = shutil.disk_usage(folder).free / 1e9
    if free < _LITTLE_GB:
        yield f"only {free:.1f} GB are free where this coordinator writes: runs stop when the disk is full."


def _of_site(home: Path, now: datetime) -> Iterator[str]:
    if is_renewing(home):
        yield "a new key waits: send renewal.json to the coordinator. The site uses the key once it is admitted."
    if (home / CERTIFICATE_FILE).exists():
        ends = expiry(home / CERTIFICATE_FILE)
        yield _notice("this site's certificate", ends, now, _INIT if now >= ends else _RENEW)
    if address := read_json(home / "coordinator.json"):
        authority = home / str(address.get("ca", ""))
        if authority.is_file():
            yield _notice("the certificate of the coordinator's authority", expiry(authority), now, _ASK)


_RENEW_SERVER = "run cdtl server renew; it takes effect at once, and sites need to do nothing"
_AUTHORITY = "make a new one with cdtl server renew --new-authority and send ca.crt to every site"
_RENEW_SITE = "ask it to run cdtl site renew and to send renewal.json"
_ENROL_SITE = "it cannot connect; ask it to run cdtl site init, and admit it again by telephone"
_RENEW = "run cdtl site renew and send renewal.json to the coordinator"
_INIT = "the coordinator refuses it; run cdtl site init without options, send enrolment.json, and expect a call"
_ASK = "ask the coordinator for its new ca.crt and give it with --ca"


def _notice(what: str, ends: datetime, now: datetime, do: str) -> str:
    if now >= ends:
        return f"{what} expired on {ends:%Y-%m-%d}: {do}."
    if ends - now <= NOTICE:
        return f"{what} ends on {ends:%Y-%m-%d}, in {(ends - now).days} days: {do}."
    return ""
