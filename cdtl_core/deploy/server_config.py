"""A coordinator's own settings, ``server.toml``."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cdtl_core.config.settings import read_toml, save_toml
from cdtl_core.config.validation import validated
from cdtl_core.deploy.gateway_config import GatewayLimits
from cdtl_core.errors import ConfigError

__all__ = ["SERVER_FILE", "ServerConfig", "load_server", "save_server"]

SERVER_FILE = "server.toml"


class ServerConfig(BaseModel):
    """Names under which sites reach the coordinator, the gateway's address, and its limits.

    Attributes:
        names: DNS names and addresses in the TLS certificate; the first is the one that sites use.
        host: Address to listen on.
        port: The only public port.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] = Field(min_length=1)
    host: str = "0.0.0.0"  # noqa: S104
    port: int = Field(8443, ge=1, le=65535)
    limits: GatewayLimits = GatewayLimits()


def load_server(folder: Path) -> ServerConfig:
    """Read the settings of a coordinator's folder.

    Raises:
        ConfigError: It is not a coordinator's folder, or a setting is wrong.
    """
    path = folder / SERVER_FILE
    if not path.exists():
        raise ConfigError(f"{folder} holds no coordinator ({SERVER_FILE} is missing): make one with cdtl server init.")
    return validated(ServerConfig, read_toml(path), str(path))


def save_server(folder: Path, config: ServerConfig) -> None:
    """Write the settings."""
    save_toml(folder / SERVER_FILE, config.model_dump(mode="json", exclude_defaults=True))
