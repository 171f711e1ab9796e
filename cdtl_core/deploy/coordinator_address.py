"""Address of a site's coordinator, stored at the site as ``coordinator.json`` and the authority's certificate."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.errors import ConfigError
from cdtl_core.system.durable import replace_bytes, replace_json

__all__ = ["CoordinatorAddress", "has_address", "load_address", "parse_address", "save_address", "store_address"]

_FILE, _CA = "coordinator.json", "coordinator.crt"


class CoordinatorAddress(BaseModel):
    """Host and port of a coordinator's gateway; `ca` is a file in the site's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    ca: str = _CA


def save_address(home: Path, server: str, ca: Path) -> CoordinatorAddress:
    """Store the coordinator's address; the authority's certificate is copied.

    Args:
        home: The site's folder.
        server: ``HOST:PORT``.
        ca: The coordinator's ``ca.crt``.

    Raises:
        ConfigError: `server` has another form, or `ca` is no certificate.
    """
    address = parse_address(server)
    try:
        content = ca.read_bytes()
    except OSError as error:
        raise ConfigError(f"--ca {ca} cannot be read ({error.strerror}): give the coordinator's ca.crt.") from None
    if b"BEGIN CERTIFICATE" not in content:
        raise ConfigError(f"--ca {ca} is not a PEM certificate: give the coordinator's ca.crt.")
    store_address(home, address, content)
    return address


def parse_address(server: str) -> CoordinatorAddress:
    """Return the address that ``HOST:PORT`` names.

    Raises:
        ConfigError: It has another form.
    """
    host, sign, port = server.rpartition(":")
    if not sign or not host or not port.isdigit():
        raise ConfigError(f"--server {server} has no port: write HOST:PORT, for example federation.example.org:8443.")
    try:
        return CoordinatorAddress(host=host.strip("[]"), port=int(port))
    except ValidationError:
        raise ConfigError(f"--server {server} has an invalid port: give one from 1 to 65535.") from None


def store_address(home: Path, address: CoordinatorAddress, ca: bytes) -> None:
    """Write the coordinator's address and the certificate of its authority to the site's folder.

    Args:
        home: The site's folder.
        address: The address.
        ca: PEM.
    """
    replace_bytes(home / _CA, ca)
    replace_json(home / _FILE, address.model_dump(mode="json"))


def has_address(home: Path) -> bool:
    """Whether the coordinator's address is stored in a site's folder."""
    return (home / _FILE).exists()


def load_address(home: Path) -> CoordinatorAddress:
    """Return the coordinator's address.

    Raises:
        ConfigError: The site has not noted it, or the note is damaged.
    """
    try:
        return CoordinatorAddress.model_validate_json((home / _FILE).read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            "this site has no coordinator yet: give --server HOST:PORT and --ca ca.crt, or run cdtl site init with "
            "--invite."
        ) from None
    except ValidationError:
        raise ConfigError(f"{home / _FILE} is damaged: give --server HOST:PORT and --ca ca.crt again.") from None
