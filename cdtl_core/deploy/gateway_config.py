"""What a gateway must be told: where it listens, what it shows, where the coordinator's files are, its limits."""

import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.errors import ConfigError

__all__ = ["GatewayConfig", "GatewayLimits", "load_gateway_config", "open_listener"]


class GatewayLimits(BaseModel):
    """How much and how long; a model of 45 MB makes about 500 requests a round and site.

    Members and strangers are counted apart. A member is a connection that showed the certificate of an admitted site.

    Attributes:
        requests_per_minute_of_site: Of one member; beyond it the answer is 503 with Retry-After.
        requests_per_minute_of_address: Of strangers at one address; beyond it each answer comes 3 s late.
        connections: Of all strangers together; one more ends the oldest of the address that holds most.
        connections_of_address: Of strangers at one address.
        connections_of_site: Of one member; one more ends its oldest.
        handshakes: Connections of which it is not known yet whose they are.
        handshakes_per_minute_of_address: Of an address from which no member is connected.
        calls_of_site: Requests of one member that are with the SuperLink at the same time; further ones wait.
        handshake_s: Longest TLS handshake.
        request_head_s: Longest wait for a request's head.
        body_s: Longest wait for a request's body.
        upstream_s: Longest silence of the SuperLink.
        request_s: Longest request in all.
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
    """Where the gateway listens, what it shows, where the SuperLink is (always this machine), whose sites it lets in.

    Attributes:
        folder: The coordinator's: FOLDER/sites is read; FOLDER/logs/access.log and FOLDER/seen.json are written.
        listener: File descriptor of the public port, opened by the service; without it the gateway opens the port.
        probe_port: On 127.0.0.1, where the service looks whether the gateway answers; 0: none.
        certificate: Shown to sites, PEM.
        key: Of that certificate, PEM.
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
    """Read a configuration's JSON.

    Raises:
        ConfigError: The file is missing or wrong in a field.
    """
    try:
        return GatewayConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the path.") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ConfigError(f"{path} is wrong in {field}: {first['msg']}; correct it.") from None


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens on a port.

    Raises:
        ConfigError: The port is taken, or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise ConfigError(
            f"port {port} of {host} cannot be opened ({error.strerror}): stop what uses it or choose another."
        ) from None
