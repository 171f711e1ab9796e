"""Changes a site's key at run time: a new key is made next to the present one and used once the coordinator knows it.

::

    HOME/next/site.key, site.crt, enrolment.json    the new key
    HOME/renewal.json                               for the coordinator; the present key vouches for the new one

The change happens when no message waits for its reply. If it is killed, the next start finishes it.
"""

import shutil
from pathlib import Path

from cdtl_core.config.folders import ENROLMENT_FILE
from cdtl_core.deploy.certificates import self_signed_client_certificate
from cdtl_core.deploy.coordinator_address import CoordinatorAddress
from cdtl_core.deploy.enrolment import load_enrolment, make_enrolment, save_enrolment
from cdtl_core.deploy.filter import CERTIFICATE_FILE
from cdtl_core.deploy.keys import KEY_FILE, load_key, make_key
from cdtl_core.deploy.renewal import save_renewal
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.foreign import get_logger

__all__ = ["RENEWAL_FILE", "adopt_key", "finish_adoption", "is_renewing", "knows_next_key", "request_renewal"]

RENEWAL_FILE = "renewal.json"
_NEXT, _SETTLED = "next", "settled"
_FILES = (KEY_FILE, CERTIFICATE_FILE, ENROLMENT_FILE)
_log = get_logger("cdtl.deploy")


def request_renewal(home: Path) -> Path:
    """Make the next key and write ``renewal.json`` for the coordinator; repeated calls return the same key.

    Raises:
        DataError: The site's key or enrolment is missing or damaged.
    """
    finish_adoption(home)
    present, contract = load_key(home), load_enrolment(home / ENROLMENT_FILE).contract
    following = home / _NEXT
    if not (following / ENROLMENT_FILE).exists():
        shutil.rmtree(following, ignore_errors=True)
        following.mkdir(mode=0o700)
        key = make_key(following)
        made = make_enrolment(key, contract, self_signed_client_certificate(key, contract.site))
        replace_bytes(following / CERTIFICATE_FILE, made.certificate.encode())
        save_enrolment(following / ENROLMENT_FILE, made)
    save_renewal(home / RENEWAL_FILE, load_enrolment(following / ENROLMENT_FILE), present)
    return home / RENEWAL_FILE


def is_renewing(home: Path) -> bool:
    """Whether a next key waits for the coordinator to know it."""
    return (home / _NEXT / ENROLMENT_FILE).exists()


def knows_next_key(home: Path, address: CoordinatorAddress) -> bool:
    """Whether the coordinator accepts the next key; False if it cannot be reached."""
    from cdtl_core.deploy.reaching import knows_key  # loads Flower, which no status needs

    return knows_key(home / _NEXT, address, home / address.ca)


def adopt_key(home: Path) -> None:
    """Replace the present key by the next one; the programs that use it must be restarted."""
    replace_bytes(home / _NEXT / _SETTLED, b"")
    finish_adoption(home)
    _log.info("the new key is in use; the coordinator removes the former one automatically")


def finish_adoption(home: Path) -> None:
    """Finish a change of keys that was interrupted by a kill."""
    following = home / _NEXT
    if not (following / _SETTLED).exists():
        return
    for name in _FILES:
        if (following / name).exists():
            (following / name).replace(home / name)
    (home / RENEWAL_FILE).unlink(missing_ok=True)
    shutil.rmtree(following)
