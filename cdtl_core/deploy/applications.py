"""Enrolments and renewals that wait at a coordinator until a person admits or removes them.

A file's name is the hash of its content, and it is verified at each look: what a person saw is what is admitted.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.deploy.enrolment import Enrolment, load_enrolment
from cdtl_core.deploy.keys import is_spoken
from cdtl_core.deploy.members import Member, admit, renew
from cdtl_core.deploy.renewal import is_renewal, load_renewal
from cdtl_core.errors import CdtlError, ConfigError, DataError
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.scratch import scratch_folder

__all__ = ["APPLICATION_BYTES", "Application", "admit_application", "applications", "keep_application"]
__all__ += ["remove_application"]

APPLICATION_BYTES = 64 * 1024
"""Most bytes of an application; one has four thousand."""
_MOST = 64  # that wait
_log = get_logger("cdtl.deploy")


@dataclass(frozen=True)
class Application:
    """A verified enrolment, or a renewal for which the site's known key vouches.

    Attributes:
        id: Sixteen hex digits of the hash of its content.
        enrolment: What the site sent.
        renews: Whether it is a renewal: then no fingerprint needs to be compared.
        arrived: When it was given, in seconds since 1970.
    """

    id: str
    enrolment: Enrolment
    renews: bool
    arrived: float


def keep_application(folder: Path, content: bytes) -> Application:
    """Verify what a site sent, and keep it until it is admitted or removed.

    Args:
        folder: The coordinator's folder.
        content: Bytes of the ``enrolment.json`` or ``renewal.json``.

    Raises:
        DataError: It is neither, or too many wait.
        FederationError: Its parts do not belong together, or the site's present key does not vouch.
    """
    if len(content) > APPLICATION_BYTES:
        raise DataError(f"this is no enrolment: it has more than {APPLICATION_BYTES // 1024} KB.")
    with scratch_folder() as scratch:
        path = scratch / "file"
        path.write_bytes(content)
        try:
            verified = _verified(folder, path)
        except CdtlError as error:
            raise type(error)(str(error).replace(f" {path}", "").replace(str(path), "it")) from None
    id = _id(content)
    waiting = applications(folder)
    if id not in waiting and len(waiting) >= _MOST:
        raise DataError(f"{_MOST} applications wait already: admit or remove some first.")
    replace_bytes(_path(folder, id), content)
    return Application(id, *verified, time.time())


def applications(folder: Path) -> dict[str, Application]:
    """Return the applications that wait, by id, in the order in which they were given; unusable files are logged."""
    found = []
    for path in _folder(folder).glob("[!.]*.json"):
        try:
            if _id(path.read_bytes()) != path.stem:
                raise DataError(f"{path} was changed after it was given: give it again.")
            found.append(Application(path.stem, *_verified(folder, path), path.stat().st_mtime))
        except (CdtlError, OSError) as error:
            _log.warning("an application is left out: %s", error)
    return {one.id: one for one in sorted(found, key=lambda one: (one.arrived, one.id))}


def admit_application(folder: Path, id: str, typed: str) -> Member:
    """Admit a site, or let it change to the key that its present one vouches for.

    Args:
        folder: The coordinator's folder.
        id: Of the application.
        typed: The end of the fingerprint that the site read out; a renewal needs none.

    Raises:
        ConfigError: No such application waits, or the end is another.
        FederationError: The name has another key, or the key another name.
    """
    one = _found(folder, id)
    if not one.renews and not is_spoken(one.enrolment.fingerprint, typed):
        raise ConfigError(
            "these are not the last four groups of this enrolment's fingerprint, so nothing was done. Let the site "
            "read them out again; if they still differ, the file is not the one that the site made: remove it."
        )
    member = (renew if one.renews else admit)(folder, one.enrolment)
    _path(folder, id).unlink(missing_ok=True)
    return member


def remove_application(folder: Path, id: str) -> str:
    """Remove an application; returns its site.

    Raises:
        ConfigError: No such application waits.
    """
    one = _found(folder, id)
    _path(folder, id).unlink(missing_ok=True)
    return one.enrolment.site


def _found(folder: Path, id: str) -> Application:
    found = applications(folder).get(id)
    if found is None:
        raise ConfigError("this application does not wait any more: it was admitted or removed.")
    return found


def _verified(folder: Path, path: Path) -> tuple[Enrolment, bool]:
    renews = is_renewal(path)
    return load_renewal(path, folder) if renews else load_enrolment(path), renews


def _id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _path(folder: Path, id: str) -> Path:
    return _folder(folder) / f"{id}.json"


def _folder(folder: Path) -> Path:
    return folder / "applications"
