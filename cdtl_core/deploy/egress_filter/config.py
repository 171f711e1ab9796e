"""Configuration of an egress filter."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.config.schema import first_fault
from cdtl_core.errors import ConfigError

__all__ = ["FilterConfig", "load_filter_config"]

_Port = Field(ge=1, le=65535)


class FilterConfig(BaseModel):
    """Where an egress filter listens, whom it talks to, and where it keeps its state.

    Attributes:
        home: The site's folder: ``approvals/``, ``pending/``, ``logs/egress.jsonl``, ``gate.json``, ``asks.json``.
        settings: The site's `site.toml`; read at each decision, for its locks.
        link: Folder that the node may read; the filter listens on ``gate.sock`` in it and writes what the node needs.
        link_mode: Permissions of the files in it: 0o600, or 0o640 if the node is another account of the folder's group.
        certificate: Server certificate for the SuperNode, PEM; its key is in `private_key`.
        site_key: The site's P-384 key, with which the filter signs every request; OpenSSH format.
        upstream_host: The coordinator's name, as in its certificate.
        upstream_port: Port of its gateway.
        ca: The authority of the coordinator's certificate, PEM; no other authority is trusted.
        client_certificate: The site's own TLS certificate, with `client_key`; None if the coordinator asks for none.
        proxy: Outbound proxy (``http://host:port``); the environment is not used.
        hold_s: Longest time that the SuperNode's question for messages is kept open; its client gives up after 30 s.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path
    settings: Path
    link: Path
    link_mode: Literal[0o600, 0o640] = 0o600
    certificate: Path
    private_key: Path
    site_key: Path
    upstream_host: str = Field(min_length=1)
    upstream_port: int = _Port
    ca: Path
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str | None = None
    hold_s: float = Field(20.0, ge=0, le=25)

    @property
    def upstream(self) -> str:
        """The coordinator's URL."""
        host = f"[{self.upstream_host}]" if ":" in self.upstream_host else self.upstream_host
        return f"https://{host}:{self.upstream_port}"


def load_filter_config(path: Path) -> FilterConfig:
    """Read an egress filter's configuration.

    Raises:
        ConfigError: The file is missing, or a field is unknown or wrong.
    """
    try:
        return FilterConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"the filter's configuration {path} cannot be read ({error.strerror}): start the site's service again."
        ) from None
    except ValidationError as error:
        raise ConfigError(f"the filter's configuration {path} is wrong in {first_fault(error)}; correct it.") from None
