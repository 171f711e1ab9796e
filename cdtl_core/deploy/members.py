"""Admitted sites of a coordinator: one file per site, read again by running processes after a change."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from cdtl_core.deploy.enrolment import Enrolment
from cdtl_core.deploy.keys import fingerprint, read_public_line
from cdtl_core.errors import DataError, FederationError
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import get_logger

__all__ = ["OVERLAP", "FormerKey", "Member", "MemberBook", "admit", "members", "renew", "revoke"]

_log = get_logger(__name__)
_Stamp = tuple[tuple[str, int, int, int], ...]


OVERLAP = timedelta(days=14)
"""How long a site's former key stays valid after a renewal; within this time the site changes over by itself."""


class FormerKey(BaseModel):
    """The key and certificate that a site had before it renewed them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    public_key: str
    certificate: str
    valid_until: AwareDatetime


class Member(BaseModel):
    """An admitted site; `revoked_at` is set once it is revoked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enrolment: Enrolment
    admitted_at: AwareDatetime
    revoked_at: AwareDatetime | None = None
    former: FormerKey | None = None

    def keys(self, now: datetime) -> dict[str, tuple[str, str]]:
        """Return public key line and certificate by fingerprint, for each valid key; the current one is the last."""
        own = {self.enrolment.fingerprint: (self.enrolment.public_key, self.enrolment.certificate)}
        if self.former is None or now >= self.former.valid_until:
            return own
        before = fingerprint(read_public_line(self.former.public_key))
        return {before: (self.former.public_key, self.former.certificate), **own}

    @property
    def site(self) -> str:
        """The site's name."""
        return self.enrolment.site


def admit(folder: Path, enrolment: Enrolment) -> Member:
    """Admit a site that `load_enrolment` verified; the same key may come again with another contract.

    Raises:
        FederationError: The name has another key, or the key another name.
    """
    key = enrolment.fingerprint
    for other in members(folder):
        same_key = key in other.keys(_now()) if other.site != enrolment.site else key == other.enrolment.fingerprint
        if other.site != enrolment.site and same_key:
            raise FederationError(
                f"the key of site {enrolment.site} already belongs to site {other.site}: ask the site to make its own "
                "key."
            )
        if other.site == enrolment.site and not same_key and other.revoked_at is None:
            raise FederationError(
                f"site {other.site} is admitted with another key: if the site really changed its key, "
                f"revoke {other.site} first."
            )
    member = Member(enrolment=enrolment, admitted_at=_now())
    _save(folder, member)
    return member


def renew(folder: Path, enrolment: Enrolment, *, now: datetime | None = None) -> Member:
    """Give a site another key, which its present key vouches for (`load_renewal`); the old one is valid for `OVERLAP`.

    Args:
        folder: The coordinator's folder.
        enrolment: With the new key.
        now: The current time.

    Raises:
        FederationError: The new key belongs to another site.
    """
    now = now or _now()
    for other in members(folder):
        if other.site != enrolment.site and enrolment.fingerprint in other.keys(now):
            raise FederationError(
                f"the key of site {enrolment.site} already belongs to site {other.site}: ask the site to make its own "
                "key."
            )
    before = {member.site: member for member in members(folder)}[enrolment.site]
    former = FormerKey(
        public_key=before.enrolment.public_key, certificate=before.enrolment.certificate, valid_until=now + OVERLAP
    )
    member = Member(enrolment=enrolment, admitted_at=before.admitted_at, former=former)
    _save(folder, member)
    return member


def revoke(folder: Path, site: str) -> Member:
    """Refuse all further requests of a site.

    Raises:
        FederationError: It was never admitted.
    """
    found = {member.site: member for member in members(folder)}
    if site not in found:
        raise FederationError(f"site {site} is not admitted, only {', '.join(found) or 'no site'}: check the name.")
    if found[site].revoked_at is not None:
        return found[site]
    member = found[site].model_copy(update={"revoked_at": _now()})
    _save(folder, member)
    return member


def members(folder: Path) -> list[Member]:
    """Return all sites ever admitted, in the order of their names, including revoked ones.

    Raises:
        DataError: A file is damaged.
    """
    return [_load(path) for path in _files(folder)]


class MemberBook:
    """The members of a coordinator for a running process, current at every access.

    An access costs one stat per file. A damaged file is logged, and its site counts as not admitted.
    """

    def __init__(self, folder: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder, self._clock = folder, clock
        self._stamp: _Stamp | None = None
        self._changes: datetime | None = None
        self._by_key: dict[str, Member] = {}

    def by_key(self) -> dict[str, Member]:
        """Return members by key fingerprint, including revoked ones; the object is the same while nothing has changed.

        A site that renews its key has two until the former one ends.
        """
        stamp, now = _stamp(self._folder), self._clock()
        if stamp != self._stamp or (self._changes is not None and now >= self._changes):
            found = self._readable()
            self._by_key = {key: member for member in found for key in member.keys(now)}
            ends = [member.former.valid_until for member in found if member.former and member.former.valid_until > now]
            self._stamp, self._changes = stamp, min(ends, default=None)
        return self._by_key

    def site_of(self, key: str | None) -> str | None:
        """Return the site of a key's fingerprint; None for a revoked or unknown key."""
        member = self.by_key().get(key) if key else None
        return member.site if member and member.revoked_at is None else None

    def _readable(self) -> list[Member]:
        found = []
        for path in _files(self._folder):
            try:
                found.append(_load(path))
            except DataError as error:
                _log.error("%s", error)
        return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "sites").glob("*.json") if not path.name.startswith("."))


def _stamp(folder: Path) -> _Stamp:
    stamps = []
    for path in _files(folder):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        stamps.append((path.name, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


def _load(path: Path) -> Member:
    try:
        member = Member.model_validate_json(path.read_bytes())
        member.keys(_now())  # an unreadable key is an error of this file
    except (OSError, ValidationError) as error:
        raise DataError(
            f"the admission {path} cannot be read ({type(error).__name__}): restore it or admit the site again."
        ) from None
    if path.stem != member.site:
        raise DataError(
            f"the admission {path} is for site {member.site}: each file must have the name of its site; restore it."
        )
    return member


def _save(folder: Path, member: Member) -> None:
    replace_json(folder / "sites" / f"{member.site}.json", member.model_dump(mode="json"))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
