"""Configuration of a gateway: port, certificate, the coordinator's files, and limits."""

import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.config.schema import first_fault
from cdtl_core.errors import ConfigError

__all__ = ["GatewayConfig", "GatewayLimits", "load_gateway_config", "open_listener"]


class GatewayLimits(BaseModel):
    """Limits of number, size and time; a model of 45 MB takes about 500 requests per round and site.

    Members and strangers are counted separately. A member is a connection with the certificate of an admitted site.

    Attributes:
        requests_per_minute_of_site: Limit for one member; beyond it the answer is 503 with Retry-After.
        requests_per_minute_of_address: Limit for strangers at one address; beyond it each answer is 3 s late.
        connections: Limit for all strangers; one more closes the oldest of the address that holds most.
        connections_of_address: Limit for strangers at one address.
        connections_of_site: Limit for one member; one more closes its oldest.
        handshakes: Limit for connections before the end of their handshake.
        handshakes_per_minute_of_address: Limit for an address without a connected member.
        calls_of_site: Requests of one member that the SuperLink handles at the same time; further ones wait.
        handshake_s: Longest TLS handshake.
        request_head_s: Longest wait for a request's head.
        body_s: Longest wait for a request's body.
        upstream_s: Longest silence of the SuperLink.
        request_s: Longest duration of a request.
        keep_alive_s: How long an idle connection is kept open.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute_of_site: int = Field(6000, ge=1)
    requests_per_minute_of_address: int = Field(120, ge=1)
    connections: int = Field(256, ge=1)
    connections_of_address: int = Field(64, ge=1)
    connections_of_site: int = Field(64, ge=1)
    handshakes: int = Field(128, ge=1)
    handshakes_per_minute_of_address: int = Field(600, ge=1)
    calls_of_site: int = Field(8, ge=1)
    handshake_s: float = Field(10, gt=0)
    request_head_s: float = Field(10, gt=0)
    body_s: float = Field(120, gt=0)
    upstream_s: float = Field(60, gt=0)
    request_s: float = Field(300, gt=0)
    keep_alive_s: int = Field(30, ge=1)


class GatewayConfig(BaseModel):
    """Where the gateway listens, its certificate, the local SuperLink, and the folder with the admitted sites.

    Attributes:
        folder: The coordinator's folder: FOLDER/sites is read; FOLDER/logs/access.log and FOLDER/seen.json are written.
        listener: File descriptor of the public port, opened by the service; without it the gateway opens the port.
        probe_port: Port on 127.0.0.1 for the service's health checks; 0: none.
        certificate: Shown to sites, PEM.
        key: Key of that certificate, PEM.
        authority: Signed the SuperLink's certificate, PEM.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    host: str = "0.0.0.0"  # noqa: S104
    port: int = Field(ge=0, le=65535)
    listener: int | None = None
    probe_port: int = Field(0, ge=0, le=65535)
    upstream_port: int = Field(ge=1, le=65535)
    certificate: Path
    key: Path
    authority: Path
    limits: GatewayLimits = GatewayLimits()


def load_gateway_config(path: Path) -> GatewayConfig:
    """Read a configuration file in JSON.

    Raises:
        ConfigError: The file is missing or wrong in a field.
    """
    try:
        return GatewayConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the path.") from None
    except ValidationError as error:
        raise ConfigError(f"{path} is wrong in {first_fault(error)}; correct it.") from None


def open_listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port.

    Raises:
        ConfigError: The port is taken, or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # Python adds the address, which is named already
        raise ConfigError(
            f"port {port} of {host} cannot be opened ({why}): stop the program that uses it, or choose "
            "another port in server.toml and tell the sites."
        ) from None
